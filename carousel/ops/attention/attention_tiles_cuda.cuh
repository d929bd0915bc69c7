// SPDX-License-Identifier: Apache-2.0
// Attention of many rows on tensor cores: tiles of 64 rows of a sequence pass over the pages with a running maximum of
// each row (arXiv:2307.08691), products in bf16, sums in f32. Queries are prepared and pages are rounded once per call.
// A row takes the pages in their order with the same operations in any tile, so cuts and neighbours change no bit
// among tiles; the kernels for few rows (attention_cuda.cu) compute in f32.
#pragma once

#include <cmath>

#include "carousel/cuda/mma.cuh"
#include "carousel/ops/attention/attention_prepare_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kTileRows = 64, kTileThreads = 128;
constexpr int kPad = 8;  // elements between rows in shared memory, so that eight rows lie in different banks

__device__ inline void copy_16_bytes(void* shared, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(from) : "memory");
}
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
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

/// Copies rows of kColumns elements, which are swizzled tiles at `from`, to rows `stride` apart, by all threads.
template <int kColumns>
__device__ void copy_rows(const __nv_bfloat16* from, int rows, int stride, __nv_bfloat16* to) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * kColumns / 8; i += kTileThreads) {
    const int row = i / (kColumns / 8), piece = i % (kColumns / 8);
    const uint32_t at = static_cast<uint32_t>(piece / 8 * rows) * 128 +
                        swizzled(static_cast<uint32_t>(row), static_cast<uint32_t>(piece % 8));
    copy_16_bytes(to + row * stride + 8 * piece, reinterpret_cast<const char*>(from) + at);
  }
}

/// A block per tile of rows and query head.
template <int kDim>
__global__ void __launch_bounds__(kTileThreads) attend_tiles(AttentionCall call) {
  await_inputs();
  extern __shared__ __align__(16) char tile_memory[];
  auto& memory = *reinterpret_cast<TileMemory<kDim>*>(tile_memory);
  const ops::AttentionArgs& args = call.args;
  const int64_t h = blockIdx.y, g = h / (args.heads / args.kv_heads);
  const TileWork work(call, kTileRows);
  if (work.rows == 0) return;
  const auto copy_page = [&](int64_t p) {
    const int64_t at = ((work.packed + p) * args.kv_heads + g) * kDim * kPage, stage = p & 1;
    copy_rows<kPage>(call.k + at, kDim, memory.kKeyStride, memory.k[stage]);
    copy_rows<kDim>(call.v + at, kPage, memory.kRowStride, memory.v[stage]);
    end_copies();
  };
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kDim / 8; i += kTileThreads) {
    const int row = i / (kDim / 8), column = i % (kDim / 8) * 8;
    const int64_t n = work.first_row + min(row, work.rows - 1);  // beyond the last one: the last again, not written
    copy_16_bytes(memory.q + row * memory.kRowStride + column, call.q + (n * args.heads + h) * kDim + column);
  }
  copy_page(work.first);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t pos_of_lane = work.pos + 16 * warp + lane / 4;
  TileRows<kDim> tile;
  for (int64_t p = work.first; p <= work.last; ++p) {
    if (p < work.last) copy_page(p + 1);
    p < work.last ? await_copies<1>() : await_copies<0>();
    __syncthreads();
    if (p == work.first) tile.load_q(memory, warp);
    tile.take_page(memory, static_cast<int>(p & 1), work.masks(p, work.pos),
                   [&](int row, int key) { return work.sees(pos_of_lane + 8 * row, p * kPage + key); });
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = tile.total[r];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    const int row = 16 * warp + lane / 4 + 8 * r;
    if (row >= work.rows) continue;
    float* const out = static_cast<float*>(args.out.data) + (work.first_row + row) * args.out.stride + h * kDim;
    const float scale = 1.0f / total;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      out[8 * n + 2 * (lane % 4)] = tile.o[n][2 * r] * scale;
      out[8 * n + 2 * (lane % 4) + 1] = tile.o[n][2 * r + 1] * scale;
    }
  }
}

template <int kDim>
void run_tiles(const Gpu::Impl& gpu, const AttentionCall& call) {
  constexpr size_t kBytes = sizeof(TileMemory<kDim>);
  allow_shared(attend_tiles<kDim>, kBytes);
  launch_early(gpu, attend_tiles<kDim>, tiles_of(call, kTileRows), kTileThreads, kBytes, call);
}

}  // namespace
}  // namespace carousel::cuda
