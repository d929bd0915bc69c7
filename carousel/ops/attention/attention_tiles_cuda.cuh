// SPDX-License-Identifier: Apache-2.0
// Attention of many rows on tensor cores: tiles of 64 rows of a sequence pass over the pages with a running maximum of
// each row (arXiv:2307.08691), products in bf16, sums in f32. Queries are prepared and pages are rounded once per call.
// A row takes the pages in their order with the same operations in any tile, so cuts and neighbours change no bit
// among tiles; the kernels for few rows (attention_cuda.cu) compute in f32.
#pragma once

#include <cmath>

#include "carousel/cuda/async.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/attention/attention_call_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kTileRows = 64, kTileThreads = 128, kPackThreads = 256;
constexpr int kPad = 8;  // elements between rows in shared memory, so that eight rows lie in different banks

/// sums [16, 8] += a [16, 16] b [16, 8].
__device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void copy_16_bytes(void* shared, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(from) : "memory");
}
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// A warp per row and query head: rotate(norm(q)), times d^-1/2 and log2 e, since weights are powers of two.
__global__ void prepare_queries(AttentionCall call) {
  const ops::AttentionArgs& args = call.args;
  const int64_t i = int64_t{blockIdx.x} * (kPackThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t n = i / args.heads, h = i % args.heads, d = args.head_dim, half = args.rotary / 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (n >= args.seqs.there[args.seqs.batch]) return;
  const BatchSequence seq =
      sequence_at(args.seqs.there, args.seqs.batch, sequence_of_row(args.seqs.there, args.seqs.batch, n));
  const float* const x = call.row(n) + h * d;
  float r = 1;
  if (args.q_norm != nullptr) {
    float squares = 0;
    for (int64_t j = lane; j < d; j += kWarp) squares = fmaf(x[j], x[j], squares);
    r = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + args.norm_eps);
  }
  const float scale = 1.4426950408889634f / sqrtf(static_cast<float>(d));
  const auto normed = [&](int64_t j) { return args.q_norm == nullptr ? x[j] : x[j] * r * args.q_norm[j]; };
  __nv_bfloat16* const out = call.q + i * d;
  for (int64_t j = args.rotary + lane; j < d; j += kWarp) out[j] = __float2bfloat16_rn(normed(j) * scale);
  const int64_t pos = seq.pos + n - seq.first_row;
  for (int64_t j = lane; j < half; j += kWarp) {
    const Rotation rotation(pos, args.inv_freq[j]);
    const float a = normed(j), b = normed(j + half);
    out[j] = __float2bfloat16_rn(rotation.first(a, b) * scale);
    out[j + half] = __float2bfloat16_rn(rotation.second(a, b) * scale);
  }
}

/// The first of sequence s's pages among those of the call.
__device__ inline int64_t first_page_of(const SeqsView& seqs, int64_t s) {
  int64_t first = 0;
  for (int64_t i = 0; i < s; ++i) {
    const BatchSequence seq = sequence_at(seqs.there, seqs.batch, i);
    first += pages_of(seq.rows, seq.pos);
  }
  return first;
}

/// A block per page of a key head. Values beyond the last key become zeros: they are multiplied by weights of zero, and
/// what memory held before may be no number.
__global__ void __launch_bounds__(kPackThreads) round_pages(AttentionCall call) {
  const ops::AttentionArgs& args = call.args;
  const int64_t p = blockIdx.x, g = blockIdx.y, s = blockIdx.z, floats = args.head_dim * kPage;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  if (p >= pages_of(seq.rows, seq.pos)) return;
  const int64_t to = ((first_page_of(args.seqs, s) + p) * args.kv_heads + g) * floats;
  const auto round = [&](const float* from, __nv_bfloat16* out, int64_t there) {
    for (int64_t i = 4 * int64_t{threadIdx.x}; i < floats; i += 4 * kPackThreads) {
      const float4 x = i < there ? *reinterpret_cast<const float4*>(from + i) : make_float4(0, 0, 0, 0);
      *reinterpret_cast<uint2*>(out + i) = make_uint2(pair_of(x.x, x.y), pair_of(x.z, x.w));
    }
  };
  round(call.k_page(s, p) + g * floats, call.k + to, floats);
  round(call.v_page(s, p) + g * floats, call.v + to, (seq.pos + seq.rows - p * kPage) * args.head_dim);
}

template <int kDim>
struct TileMemory {
  static constexpr int kKeyStride = kPage + kPad, kRowStride = kDim + kPad;
  __nv_bfloat16 q[kTileRows * kRowStride];
  __nv_bfloat16 k[2][kDim * kKeyStride];
  __nv_bfloat16 v[2][kPage * kRowStride];
};

/// A warp's 16 rows of a tile.
template <int kDim>
struct TileRows {
  uint32_t q[kDim / 16][4];
  float o[kDim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, total[2] = {};  // of rows lane / 4 and lane / 4 + 8

  /// b of two neighbouring products: rows k0 to k0 + 16, columns n0 to n0 + 16 of a matrix with `stride`.
  __device__ static void load_b(const __nv_bfloat16* matrix, int stride, int k0, int n0, uint32_t (&b)[4]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, tile = lane >> 3;
    const int row = k0 + (tile & 1) * 8 + (lane & 7), column = n0 + (tile >> 1) * 8;
    load_transposed_tiles(shared_address(matrix + row * stride + column), b);
  }
  __device__ void load_q(const TileMemory<kDim>& memory, int warp) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      load_tiles(shared_address(memory.q + (16 * warp + (lane & 15)) * memory.kRowStride + 16 * i + (lane >> 4) * 8),
                 q[i]);
    }
  }
  /// Takes a page: `sees(row, key)` says whether row 0 or 1 of the lane sees a key of it.
  template <class F>
  __device__ void take_page(const TileMemory<kDim>& memory, int stage, bool masks, const F& sees) {
    const int column = 2 * (static_cast<int>(threadIdx.x) % 4);
    float scores[kPage / 8][4] = {};
#pragma unroll
    for (int n = 0; n < kPage / 16; ++n) {
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        uint32_t b[4];
        load_b(memory.k[stage], memory.kKeyStride, 16 * i, 16 * n, b);
        multiply_add(scores[2 * n], q[i], b[0], b[1]);
        multiply_add(scores[2 * n + 1], q[i], b[2], b[3]);
      }
    }
    float best[2] = {max[0], max[1]};
#pragma unroll
    for (int n = 0; n < kPage / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (masks && !sees(i / 2, 8 * n + column + i % 2)) scores[n][i] = -INFINITY;
        best[i / 2] = fmaxf(best[i / 2], scores[n][i]);
      }
    }
    float rescale[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      best[r] = fmaxf(best[r], __shfl_xor_sync(kAllLanes, best[r], 1));
      best[r] = fmaxf(best[r], __shfl_xor_sync(kAllLanes, best[r], 2));
      const float base = best[r] == -INFINITY ? 0.0f : best[r];  // a row that has seen no key yet
      rescale[r] = exp2_fast(max[r] - base);
      max[r] = best[r];
      best[r] = base;
      total[r] *= rescale[r];
    }
#pragma unroll
    for (int n = 0; n < kPage / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = exp2_fast(scores[n][i] - best[i / 2]);
        total[i / 2] += scores[n][i];
      }
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] *= rescale[i / 2];
    }
#pragma unroll
    for (int i = 0; i < kPage / 16; ++i) {
      const uint32_t p[4] = {pair_of(scores[2 * i][0], scores[2 * i][1]), pair_of(scores[2 * i][2], scores[2 * i][3]),
                             pair_of(scores[2 * i + 1][0], scores[2 * i + 1][1]),
                             pair_of(scores[2 * i + 1][2], scores[2 * i + 1][3])};
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        uint32_t b[4];
        load_b(memory.v[stage], memory.kRowStride, 16 * i, 16 * n, b);
        multiply_add(o[2 * n], p, b[0], b[1]);
        multiply_add(o[2 * n + 1], p, b[2], b[3]);
      }
    }
  }
};

/// Copies rows of kColumns elements, one after the other from `from` on, to rows `stride` apart, by all threads.
template <int kColumns>
__device__ void copy_rows(const __nv_bfloat16* from, int rows, int stride, __nv_bfloat16* to) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * kColumns / 8; i += kTileThreads) {
    const int row = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
    copy_16_bytes(to + row * stride + column, from + row * kColumns + column);
  }
}

/// A block per tile of rows and query head. Tiles are numbered without a table: tile t of sequence s is
/// offsets[s] / 64 + s + t, since r rows have at most r / 64 + 1 tiles. Later tiles see more keys and go first.
template <int kDim>
__global__ void __launch_bounds__(kTileThreads) attend_tiles(AttentionCall call) {
  extern __shared__ __align__(16) char tile_memory[];
  auto& memory = *reinterpret_cast<TileMemory<kDim>*>(tile_memory);
  const ops::AttentionArgs& args = call.args;
  const int64_t number = gridDim.x - 1 - blockIdx.x, h = blockIdx.y, g = h / (args.heads / args.kv_heads);
  int64_t s = args.seqs.batch - 1;
  while (s > 0 && args.seqs.there[s] / kTileRows + s > number) --s;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  const int64_t row0 = (number - seq.first_row / kTileRows - s) * kTileRows;
  if (row0 >= seq.rows) return;
  const int rows = static_cast<int>(min(int64_t{kTileRows}, seq.rows - row0));
  const int64_t pos0 = seq.pos + row0, window = args.window;
  const int64_t first = window > 0 && pos0 + 1 > window ? (pos0 + 1 - window) / kPage : 0;
  const int64_t last = (pos0 + rows - 1) / kPage, packed = first_page_of(args.seqs, s);
  const auto copy_page = [&](int64_t p) {
    const int64_t at = ((packed + p) * args.kv_heads + g) * kDim * kPage, stage = p & 1;
    copy_rows<kPage>(call.k + at, kDim, memory.kKeyStride, memory.k[stage]);
    copy_rows<kDim>(call.v + at, kPage, memory.kRowStride, memory.v[stage]);
    end_copies();
  };
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kDim / 8; i += kTileThreads) {
    const int row = i / (kDim / 8), column = i % (kDim / 8) * 8;
    const int64_t n = seq.first_row + row0 + min(row, rows - 1);  // beyond the last one: the last again, not written
    copy_16_bytes(memory.q + row * memory.kRowStride + column, call.q + (n * args.heads + h) * kDim + column);
  }
  copy_page(first);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t pos_of_lane = pos0 + 16 * warp + lane / 4;
  TileRows<kDim> tile;
  for (int64_t p = first; p <= last; ++p) {
    if (p < last) copy_page(p + 1);
    p < last ? await_copies<1>() : await_copies<0>();
    __syncthreads();
    if (p == first) tile.load_q(memory, warp);
    const bool masks = window > 0 || (p + 1) * kPage > pos0;
    tile.take_page(memory, static_cast<int>(p & 1), masks, [&](int row, int key) {
      const int64_t pos = pos_of_lane + 8 * row, at = p * kPage + key;
      return at <= pos && (window == 0 || at > pos - window);
    });
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = tile.total[r];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    const int row = 16 * warp + lane / 4 + 8 * r;
    if (row >= rows) continue;
    float* const out = static_cast<float*>(args.out.data) + (seq.first_row + row0 + row) * args.out.stride + h * kDim;
    const float scale = 1.0f / total;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      out[8 * n + 2 * (lane % 4)] = tile.o[n][2 * r] * scale;
      out[8 * n + 2 * (lane % 4) + 1] = tile.o[n][2 * r + 1] * scale;
    }
  }
}

template <int kDim>
void run_tiles_of(const Gpu::Impl& gpu, const AttentionCall& call) {
  const ops::AttentionArgs& args = call.args;
  constexpr size_t kBytes = sizeof(TileMemory<kDim>);
  allow_shared(attend_tiles<kDim>, kBytes);
  const int64_t tiles = args.seqs.rows() / kTileRows + args.seqs.batch;
  attend_tiles<kDim>
      <<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(args.heads)), kTileThreads, kBytes, gpu.queue()>>>(
          call);
}

/// After the pages have their new rows.
void run_tiles(const Gpu::Impl& gpu, const AttentionCall& call) {
  const ops::AttentionArgs& args = call.args;
  int64_t most_pages = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    most_pages = std::max(most_pages, pages_of(args.seqs.length(s), args.seqs.pos[s]));
  }
  const int64_t queries = args.seqs.rows() * args.heads;
  prepare_queries<<<static_cast<unsigned>(blocks_of(queries, kPackThreads / kWarp)), kPackThreads, 0, gpu.queue()>>>(
      call);
  const dim3 pages(static_cast<unsigned>(most_pages), static_cast<unsigned>(args.kv_heads),
                   static_cast<unsigned>(args.seqs.batch));
  round_pages<<<pages, kPackThreads, 0, gpu.queue()>>>(call);
  args.head_dim == 64 ? run_tiles_of<64>(gpu, call) : run_tiles_of<128>(gpu, call);
  launched("attention");
}

}  // namespace
}  // namespace carousel::cuda
