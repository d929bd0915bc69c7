// SPDX-License-Identifier: Apache-2.0
// Attention of many rows prepares its tiles so (prepare_row() serves few rows too): angles are computed once per
// row and pair, new keys and values go to their pages, queries are rotated and rounded, and pages are rounded into
// swizzled tiles (cuda/async.cuh), which one copy brings into shared memory as tensor cores read them.
#pragma once

#include "carousel/cuda/async.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/attention/attention_call_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kPackThreads = 256, kPackWarps = kPackThreads / kWarp;
constexpr int kMostTileDim = 128;

/// The first of sequence s's pages among those of the call.
__device__ inline int64_t first_page_of(const SeqsView& seqs, int64_t s) {
  int64_t first = 0;
  for (int64_t i = 0; i < s; ++i) {
    const BatchSequence seq = sequence_at(seqs.there, seqs.batch, i);
    first += pages_of(seq.rows, seq.pos);
  }
  return first;
}

/// A thread per row and pair.
__global__ void __launch_bounds__(kPackThreads) rotate_pairs(AttentionCall call) {
  await_inputs();
  const ops::AttentionArgs& args = call.args;
  const int64_t half = args.rotary / 2, i = int64_t{blockIdx.x} * kPackThreads + threadIdx.x, n = i / half;
  if (n >= args.seqs.there[args.seqs.batch]) return;
  const BatchSequence seq =
      sequence_at(args.seqs.there, args.seqs.batch, sequence_of_row(args.seqs.there, args.seqs.batch, n));
  const Rotation rotation(seq.pos + n - seq.first_row, args.inv_freq[i % half]);
  call.rotations[i] = make_float2(rotation.cosine, rotation.sine);
}

/// A warp's row of one head: norm, then rotation(j) of pair j, then `scale`; out(j, value) takes the elements. The sum
/// of squares has the order of block_sum(), so that a key has the same bits by any kernel.
template <class F, class Out>
__device__ inline void prepare_row(const ops::AttentionArgs& args, const F& rotation, const float* x, const float* norm,
                                   float scale, const Out& out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int d = static_cast<int>(args.head_dim), half = static_cast<int>(args.rotary) / 2;
  float r = 1;
  if (norm != nullptr) {
    float sums[kMostTileDim / kWarp] = {};
#pragma unroll
    for (int i = 0; i < kMostTileDim / kWarp; ++i) {
      const int j = i * kWarp + lane;
      if (j < d) sums[i] = x[j];
    }
#pragma unroll
    for (int i = 0; i < kMostTileDim / kWarp; ++i) sums[i] = warp_sum(sums[i] * sums[i]);
    r = 1.0f / sqrtf(((sums[0] + sums[2]) + (sums[1] + sums[3])) / static_cast<float>(d) + args.norm_eps);
  }
  const auto normed = [&](int j) { return norm == nullptr ? x[j] : x[j] * r * norm[j]; };
#pragma unroll 1
  for (int j = 2 * half + lane; j < d; j += kWarp) out(j, normed(j) * scale);
#pragma unroll 1
  for (int j = lane; j < half; j += kWarp) {
    const auto pair = rotation(j)(normed(j), normed(j + half));
    out(j, pair.a * scale);
    out(j + half, pair.b * scale);
  }
}

/// The rotations of row n, from the table.
struct KnownRotations {
  const float2* pairs;

  __device__ KnownRotations(const AttentionCall& call, int64_t n)
      : pairs(call.rotations + n * (call.args.rotary / 2)) {}
  __device__ Rotation operator()(int64_t j) const {
    const float2 pair = pairs[j];
    return {pair.x, pair.y};
  }
};

/// A warp per row and query head. Scores are powers of two, hence log2 e.
__global__ void __launch_bounds__(kPackThreads) prepare_queries(AttentionCall call) {
  await_inputs();
  const ops::AttentionArgs& args = call.args;
  const int64_t i = int64_t{blockIdx.x} * kPackWarps + threadIdx.x / kWarp;
  const int64_t n = i / args.heads, h = i % args.heads;
  if (n >= args.seqs.there[args.seqs.batch]) return;
  __nv_bfloat16* const q = call.q + i * args.head_dim;
  prepare_row(args, KnownRotations(call, n), call.row(n) + h * args.head_dim, args.q_norm,
              1.4426950408889634f / sqrtf(static_cast<float>(args.head_dim)),
              [&](int j, float value) { q[j] = __float2bfloat16_rn(value); });
}

/// A block per page that gets rows, and key head. Keys go through shared memory: a page has them in columns.
__global__ void __launch_bounds__(kPackThreads) write_whole_pages(AttentionCall call) {
  __shared__ float keys[kMostTileDim][kPage + 1];
  await_inputs();
  const ops::AttentionArgs& args = call.args;
  const int64_t s = blockIdx.z, g = blockIdx.y, d = args.head_dim;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  const int64_t p = seq.pos / kPage + blockIdx.x;
  const auto begin = static_cast<int>(max(seq.pos - p * kPage, int64_t{0}));
  const auto end = static_cast<int>(min(seq.pos + seq.rows - p * kPage, int64_t{kPage}));
  if (begin >= end) return;
  const int64_t n0 = seq.first_row + p * kPage - seq.pos;  // the row of the page's first key
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  float* const v_page = call.v_page(s, p) + g * kPage * d;
  for (int key = begin + thread / kWarp; key < end; key += kPackWarps) {
    const float* const row = call.row(n0 + key);
    prepare_row(args, KnownRotations(call, n0 + key), row + (args.heads + g) * d, args.k_norm, 1.0f,
                [&](int j, float value) { keys[j][key] = value; });
    const float* const v = row + (args.heads + args.kv_heads + g) * d;
    for (int64_t j = lane; j < d; j += kWarp) v_page[key * d + j] = v[j];
  }
  __syncthreads();
  float* const k_page = call.k_page(s, p) + g * d * kPage;
  for (int i = thread; i < static_cast<int>(d) * kPage; i += kPackThreads) {
    const int j = i / kPage, key = i % kPage;
    if (begin <= key && key < end) k_page[i] = keys[j][key];
  }
}

/// A block per page of a key head. Values beyond the last key become zeros: they are multiplied by weights of zero, and
/// what memory held before may be no number.
__global__ void __launch_bounds__(kPackThreads) round_pages(AttentionCall call) {
  await_inputs();
  const ops::AttentionArgs& args = call.args;
  const int64_t p = blockIdx.x, g = blockIdx.y, s = blockIdx.z, floats = args.head_dim * kPage;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  if (p >= pages_of(seq.rows, seq.pos)) return;
  const int64_t to = ((first_page_of(args.seqs, s) + p) * args.kv_heads + g) * floats;
  // Pieces of 8 floats; `across` of them are a row, and 8 a row of a tile.
  const auto round = [&](const float* from, __nv_bfloat16* out, int across, int64_t there) {
    const int rows = static_cast<int>(floats) / 8 / across;
    for (int i = static_cast<int>(threadIdx.x); i < floats / 8; i += kPackThreads) {
      const int row = i / across, piece = i % across;
      float4 x = make_float4(0, 0, 0, 0), y = x;
      if (8 * i < there) {
        x = *reinterpret_cast<const float4*>(from + 8 * i);
        y = *reinterpret_cast<const float4*>(from + 8 * i + 4);
      }
      const uint32_t at = static_cast<uint32_t>(piece / 8 * rows) * 128 +
                          swizzled(static_cast<uint32_t>(row), static_cast<uint32_t>(piece % 8));
      *reinterpret_cast<uint4*>(reinterpret_cast<char*>(out) + at) =
          make_uint4(pair_of(x.x, x.y), pair_of(x.z, x.w), pair_of(y.x, y.y), pair_of(y.z, y.w));
    }
  };
  round(call.k_page(s, p) + g * floats, call.k + to, kPage / 8, floats);
  round(call.v_page(s, p) + g * floats, call.v + to, static_cast<int>(args.head_dim) / 8,
        (seq.pos + seq.rows - p * kPage) * args.head_dim);
}

/// A block's tile of rows of one sequence. Tiles of R rows are numbered without a table: tile t of sequence s is
/// offsets[s] / R + s + t, since r rows have at most r / R + 1 tiles. Later tiles see more keys and go first.
struct TileWork {
  int64_t first_row, pos;  // of the batch; position of that row
  int rows = 0;            // 0: there is no such tile
  int64_t first, last;     // pages that the rows see
  int64_t packed;          // the sequence's first page among those of the call
  int64_t window;

  __device__ TileWork(const AttentionCall& call, int tile_rows) : window(call.args.window) {
    const SeqsView& seqs = call.args.seqs;
    const int64_t number = gridDim.x - 1 - blockIdx.x;
    int64_t s = seqs.batch - 1;
    while (s > 0 && seqs.there[s] / tile_rows + s > number) --s;
    const BatchSequence seq = sequence_at(seqs.there, seqs.batch, s);
    const int64_t row0 = (number - seq.first_row / tile_rows - s) * tile_rows;
    if (row0 >= seq.rows) return;
    rows = static_cast<int>(min(int64_t{tile_rows}, seq.rows - row0));
    first_row = seq.first_row + row0;
    pos = seq.pos + row0;
    first = ops::first_seen(pos, window) / kPage;
    last = (pos + rows - 1) / kPage;
    packed = first_page_of(seqs, s);
  }
  __device__ bool sees(int64_t from, int64_t key) const { return key <= from && (window == 0 || key > from - window); }
  /// Whether rows from position `from` on may not see all keys of page p.
  __device__ bool masks(int64_t p, int64_t from) const { return window > 0 || (p + 1) * kPage > from; }
};

/// Blocks for all tiles and query heads.
dim3 tiles_of(const AttentionCall& call, int tile_rows) {
  const int64_t tiles = call.args.seqs.rows() / tile_rows + call.args.seqs.batch;
  return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(call.args.heads));
}

/// New rows go to their pages; queries and pages are prepared for tiles.
void prepare_for_tiles(const Gpu::Impl& gpu, const AttentionCall& call) {
  const ops::AttentionArgs& args = call.args;
  const int64_t rows = args.seqs.rows();
  int64_t most_pages = 0, most_written = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    const int64_t pages = pages_of(args.seqs.length(s), args.seqs.pos[s]);
    most_pages = std::max(most_pages, pages);
    most_written = std::max(most_written, pages - args.seqs.pos[s] / kPage);
  }
  const auto grid = [&](int64_t pages) {
    return dim3(static_cast<unsigned>(pages), static_cast<unsigned>(args.kv_heads),
                static_cast<unsigned>(args.seqs.batch));
  };
  const auto blocks = [](int64_t count, int64_t each) { return dim3(static_cast<unsigned>(blocks_of(count, each))); };
  if (args.rotary > 0) {
    launch_early(gpu, rotate_pairs, blocks(rows * (args.rotary / 2), kPackThreads), kPackThreads, 0, call);
  }
  launch_early(gpu, write_whole_pages, grid(most_written), kPackThreads, 0, call);
  launch_early(gpu, prepare_queries, blocks(rows * args.heads, kPackWarps), kPackThreads, 0, call);
  launch_early(gpu, round_pages, grid(most_pages), kPackThreads, 0, call);
}

}  // namespace
}  // namespace carousel::cuda
