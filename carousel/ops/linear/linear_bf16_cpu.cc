// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over panels of bf16 with x rounded to bf16: one pair of columns per step of a chain, two multiply-adds
// in the order of bf16_pairs_cpu.h. The instruction for it takes subnormal factors as zero and rounds to nearest;
// elsewhere the same products are exact in f32 and added by fused multiply-adds. How the work is cut is in
// linear_tiles_cpu.h.
#include "carousel/ops/linear/bf16_pairs_cpu.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/linear/linear_tiles_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kMaxRows = 12;
#else
constexpr int kMaxRows = 4;
#endif
constexpr int kTileVecs = 2;
typedef int16_t HalfVec __attribute__((vector_size(2 * kLanes)));

/// acc + the products of a pair: columns k and k + 1 of kLanes rows of weights, times those of a row of x.
TILE_INLINE Vec dot2(Vec acc, IntVec weights, IntVec x) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(weights), reinterpret_cast<__m512bh>(x));
#else
  const int32_t high = static_cast<int32_t>(0xFFFF0000);
  acc = fma(as_float(x << 16), as_float(weights << 16), acc);
  return fma(as_float(x & high), as_float(weights & high), acc);
#endif
}

/// One tile over `pairs` pairs of columns.
///   x: pairs of R rows   cells: the panel from its pair and the tile's first output row on
template <int R>
TILE_INLINE void tile(const char* x, const char* cells, int64_t pairs, int64_t ahead, const TileOut& out) {
  constexpr int V = kTileVecs;
  Vec acc[R][V] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  for (; pairs > 0; --pairs) {
#pragma GCC unroll 2
    for (int64_t line = 0; line < kPanelRows * 4; line += 64) prefetch_near(cells + ahead + line);
    IntVec w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) w[v] = load_int(cells + v * kLanes * 4);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const IntVec x_r = set1_int(x + r * 4);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = dot2(acc[r][v], w[v], x_r);
    }
    x += R * 4;
    cells += kPanelRows * 4;
  }
  leave_tile(acc, out);
}

template <int R>
void tiles(const char* x, const char* cells, int64_t pairs, const Run& run, const TileOut& out) {
  for_blocks<R>(x, run, out, [&](const char* block, const TileOut& to) CAROUSEL_INLINE_LAMBDA {
    tile<R>(block, cells, pairs, run.ahead, to);
  });
}

using TilesFn = void (*)(const char* x, const char* cells, int64_t pairs, const Run& run, const TileOut& out);

TilesFn tiles_of(int64_t rows) {
  return for_rows<kMaxRows>(rows, [](auto r) -> TilesFn { return tiles<r.kValue>; });
}

/// Rounds `count` columns of one row of x into pairs `stride` bytes apart; a single last column is paired with zero.
void round_row(const float* x, int64_t count, char* out, int64_t stride) {
  for (int64_t k = 0; k < count; k += kLanes) {
    const int64_t values = least(kLanes, count - k);
    const IntVec rounded = round_bf16(values == kLanes ? load(x + k) : load_partial(x + k, values));
    const HalfVec pairs = __builtin_convertvector(rounded, HalfVec);
    int32_t cells[kLanes / 2];
    std::memcpy(cells, &pairs, sizeof pairs);
    for (int64_t i = 0; i < ceil_div(values, 2); ++i, out += stride) std::memcpy(out, cells + i, 4);
  }
}

struct BF16Engine {
  static constexpr int kMaxRows = CAROUSEL_ISA::kMaxRows;
  static constexpr int64_t kSlabCols = 512;        // 32 KiB of panel
  static constexpr int64_t kPrefetchBytes = 8192;  // as in linear_cpu.cc
  static constexpr int tile_vecs(int) { return kTileVecs; }
  static int64_t column_bytes(DType, int64_t k) { return ceil_div(k, 2) * kPanelRows * 4; }
  // x is packed as [ceil(K / 2), rows of the block] pairs.
  static char* x_at(const LinearFwd& a, const RowBlock& block, int64_t k) {
    return reinterpret_cast<char*>(a.packed) + (block.first * ceil_div(a.K, 2) + block.rows * (k / 2)) * 4;
  }
  static const char* cells(const FoundPanel& panel, int64_t k) { return panel.bytes + column_bytes(DType::kBF16, k); }
  static void tiles(const LinearFwd& a, const FoundPanel& panel, const RowBlock& block, int64_t k, int64_t col,
                    int64_t count, Run run, const TileOut& out) {
    run.x_step = block.rows * ceil_div(a.K, 2) * 4;
    tiles_of(block.rows)(x_at(a, block, k), cells(panel, k) + col * 4, ceil_div(count, 2), run, out);
  }
  static void pack(const LinearFwd& a, const RowBlock& block, const float* x, int64_t stride, int64_t begin,
                   int64_t end) {
    char* const out = x_at(a, block, begin);
    for (int64_t r = 0; r < block.rows; ++r) round_row(x + r * stride, end - begin, out + r * 4, block.rows * 4);
  }
};

/// Rounds columns begin to end of a block of rows, from x given as [K, N], into pairs of rows of it.
void round_transposed(const LinearFwd& a, const RowBlock& block, int64_t begin, int64_t end) {
  char* out = BF16Engine::x_at(a, block, begin);
  const float* x = a.x + begin * a.x_stride + block.first;
  for (int64_t k = begin; k < end; k += 2, x += 2 * a.x_stride, out += block.rows * 4) {
    pair_rows(x, k + 1 < end ? x + a.x_stride : nullptr, block.rows, out);
  }
}

void round_x(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  constexpr int64_t kPiece = 1024;
  const int64_t pieces = ceil_div(a.K, kPiece), stride = a.x_stride != 0 ? a.x_stride : a.K;
  if (a.N == 1 && !a.transposed) return BF16Engine::pack(a, {0, 1}, a.x, a.K, 0, a.K);
  parallel_for(*stream.pool, plan.blocks * pieces, [&](int64_t i) {
    const RowBlock block = row_block(plan, i / pieces);
    const int64_t begin = i % pieces * kPiece, end = least(begin + kPiece, a.K);
    if (a.transposed) return round_transposed(a, block, begin, end);
    BF16Engine::pack(a, block, a.x + block.first * stride + begin, stride, begin, end);
  });
}

}  // namespace

void linear_bf16_fwd(const Stream& stream, const LinearFwd& a) {
  const Plan plan = plan_of<BF16Engine>(a, stream.pool->threads());
  if (a.x != nullptr) round_x(stream, a, plan);
  run_products<BF16Engine>(stream, a, plan);
}

void pack_row_pairs(const Stream& stream, const ops::PackRowPairsArgs& args) {
  const int64_t pairs = ceil_div(args.N, 2), panel_bytes = pairs * kPanelRows * 4;
  parallel_for(*stream.pool, ceil_div(args.K, kPanelRows), [&](int64_t p) {
    const int64_t columns = least(kPanelRows, args.K - p * kPanelRows);
    const float* x = args.x.f32() + p * kPanelRows;
    char* out = args.panels + p * panel_bytes;
    for (int64_t n = 0; n < args.N; n += 2, x += 2 * args.x.stride, out += kPanelRows * 4) {
      pair_rows(x, n + 1 < args.N ? x + args.x.stride : nullptr, columns, out);
      if (columns < kPanelRows) std::memset(out + columns * 4, 0, static_cast<size_t>(kPanelRows - columns) * 4);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
