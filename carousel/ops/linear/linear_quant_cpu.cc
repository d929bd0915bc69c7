// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over panels of q8 or q4. x is rounded to 8 bits in blocks of 32 along k, each with a scale of its own,
// before q4 a power of two. The 32 products of a block are summed as integers, exactly; one fused multiply-add per
// block adds the sum, times both scales, to the element's chain in the order of k. How the work is cut is in
// linear_tiles_cpu.h.
//
// Codes of weights are unsigned (q + 128, q + 8), as the dot instructions require; a block of x carries -128 and -8
// times the sum of its codes, from which the integer sums start.
#include "carousel/ops/linear/block_dots_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kScaleBytes = kPanelRows * 2;

/// sums[r][v] += the products of a block whose codes are bytes [8][32 rows][4], at most kMost.
template <int kMost, int R, int V>
TILE_INLINE void dot_bytes(IntVec (&sums)[R][V], const char* x, const char* cells) {
  dot_groups<kMost, kGroups>(
      sums, x, [](int64_t i) CAROUSEL_INLINE_LAMBDA { return i; },
      [&](int64_t g, int v) CAROUSEL_INLINE_LAMBDA { return load_int(cells + g * kPanelRows * 4 + v * kLanes * 4); });
}

/// Panels of one byte per weight: per block of k the codes [8][32 rows][4], then the scales f16 [32].
struct Q8Panel {
  static constexpr XScale kXScale = XScale::kPeak;
  static constexpr int64_t kBytes = DensePanels::kQ8BlockBytes;
  static constexpr bool kStartsAtZero = kSignedBytes;
  static constexpr int64_t kStart = kFirstSum;  // times R: where the starting sum stands
  /// sums[r][v] += the block's products.
  template <int R, int V>
  TILE_INLINE static void dot(IntVec (&sums)[R][V], const char* x, const char* cells) {
    dot_bytes<255>(sums, x, cells);
  }
};

struct Q4Panel {
#if defined(__AVX512F__)
  static constexpr XScale kXScale = XScale::kExponent;
#else
  static constexpr XScale kXScale = XScale::kPower;
#endif
  static constexpr int64_t kBytes = DensePanels::kQ4BlockBytes;
  static constexpr bool kStartsAtZero = false;
  static constexpr int64_t kStart = kSecondSum;
  template <int R, int V>
  TILE_INLINE static void dot(IntVec (&sums)[R][V], const char* x, const char* cells) {
    // Groups that share words are multiplied together.
    dot_groups<15, kGroups, 2>(
        sums, x, [](int64_t i) CAROUSEL_INLINE_LAMBDA { return i / 2 + i % 2 * (kGroups / 2); },
        [&](int64_t g, int v) CAROUSEL_INLINE_LAMBDA {
          const IntVec pairs = load_int(cells + g % (kGroups / 2) * kPanelRows * 4 + v * kLanes * 4);
          return (g < kGroups / 2 ? pairs : pairs >> 4) & 0x0F0F0F0F;
        });
  }
};

/// A panel of q4 that has been widened for many rows: laid out as one of q8.
struct WideQ4Panel : Q4Panel {
  static constexpr int64_t kBytes = Q8Panel::kBytes;
  template <int R, int V>
  TILE_INLINE static void dot(IntVec (&sums)[R][V], const char* x, const char* cells) {
    dot_bytes<15>(sums, x, cells);
  }
};

/// Widens `blocks` blocks of a panel of q4 to a byte per weight.
void widen_q4(const char* panel, int64_t blocks, int64_t ahead, char* wide) {
  constexpr int64_t kHalfBytes = kBlock * kPanelRows / 2;
  for (; blocks > 0; --blocks, panel += Q4Panel::kBytes, wide += Q8Panel::kBytes) {
    for (int64_t line = 0; line < Q4Panel::kBytes; line += 64) prefetch_far(panel + ahead + line);
    for (int64_t i = 0; i < kHalfBytes; i += kLanes * 4) {
      const IntVec pairs = load_int(panel + i), low = pairs & 0x0F0F0F0F, high = (pairs >> 4) & 0x0F0F0F0F;
      std::memcpy(wide + i, &low, sizeof low);
      std::memcpy(wide + kHalfBytes + i, &high, sizeof high);
    }
    std::memcpy(wide + 2 * kHalfBytes, panel + kHalfBytes, kScaleBytes);
  }
}

/// One tile over `blocks` blocks of k.
///   x: blocks of R rows   panel: from its block on   col: of the panel, the tile's first output row
///   ahead: how far the panel is prefetched meanwhile; 0: it is not
template <class Panel, int R>
TILE_INLINE void tile(const char* x, const char* panel, int64_t col, int64_t blocks, int64_t ahead,
                      const TileOut& out) {
  constexpr int V = kTileVecs;
  Vec acc[R][V] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  const char* cells = panel + col * 4;
  const char* scales = panel + Panel::kBytes - kScaleBytes + col * 2;
  for (; blocks > 0; --blocks) {
#pragma GCC unroll 32
    for (int64_t line = 0; ahead != 0 && line < Panel::kBytes; line += 64) prefetch_far(cells + ahead + line);
    IntVec sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const IntVec start = Panel::kStartsAtZero ? IntVec{} : set1_int(x + R * Panel::kStart + r * 4);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = start;
    }
    Panel::dot(sums, x, cells);
    Vec scale[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) scale[v] = load_f16(scales + v * kLanes * 2);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec x_scale = set1(load_float(x + R * kBlock + r * 4));
      // The sum times one scale, then the other: multiplying the scales first takes as many instructions, but ran at
      // 67 % of the int8 peak instead of 78.
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = fma(scaled<Panel::kXScale>(sums[r][v], x_scale), scale[v], acc[r][v]);
    }
    x += R * kRowBlockBytes;
    cells += Panel::kBytes;
    scales += Panel::kBytes;
  }
  leave_tile(acc, out);
}

template <class Panel, int R>
void tiles(const char* x, const char* panel, int64_t col, int64_t blocks, const Run& run, const TileOut& out) {
  for_blocks<R>(x, run, out, [&](const char* block, const TileOut& to) CAROUSEL_INLINE_LAMBDA {
    tile<Panel, R>(block, panel, col, blocks, run.ahead, to);
  });
}

using TilesFn = void (*)(const char* x, const char* panel, int64_t col, int64_t blocks, const Run& run,
                         const TileOut& out);

template <class Panel>
TilesFn tiles_of(int64_t rows) {
  return for_rows<kMaxRows>(rows, [](auto r) -> TilesFn { return tiles<Panel, r.kValue>; });
}

struct QuantEngine {
  static constexpr int kMaxRows = CAROUSEL_ISA::kMaxRows;
  static constexpr int64_t kSlabCols = 512;
  static constexpr int64_t kPrefetchBytes = 6144;  // into the second level: one row of q8 takes 0.9 of the time
  static constexpr int tile_vecs(int) { return kTileVecs; }
  static constexpr int64_t kWidenedBlocks = 8;
  static constexpr int64_t kWidenedBytes = kSlabCols / kBlock * Q8Panel::kBytes;
  static int64_t block_bytes(DType dtype) { return dtype == DType::kQ8 ? Q8Panel::kBytes : Q4Panel::kBytes; }
  static int64_t column_bytes(DType dtype, int64_t k) { return ceil_div(k, kBlock) * block_bytes(dtype); }
  static char* x_at(const LinearFwd& a, const RowBlock& block, int64_t k) {
    return reinterpret_cast<char*>(a.packed) +
           (block.first * ceil_div(a.K, kBlock) + block.rows * (k / kBlock)) * kRowBlockBytes;
  }
  static const char* cells(const FoundPanel& panel, int64_t k) {
    return panel.bytes + column_bytes(panel.part->dtype, k);
  }
  /// Fewer blocks of rows take longer with widening: 16 rows 1.13 times as long, 64 rows 0.97.
  static bool widens(DType dtype, int64_t blocks) { return dtype == DType::kQ4 && blocks >= kWidenedBlocks; }
  static void widen(const FoundPanel& panel, int64_t k, int64_t count, char* wide) {
    widen_q4(cells(panel, k), ceil_div(count, kBlock), kPrefetchBytes, wide);
  }
  static void tiles(const LinearFwd& a, const FoundPanel& panel, const RowBlock& block, int64_t k, int64_t col,
                    int64_t count, Run run, const TileOut& out) {
    run.x_step = block.rows * ceil_div(a.K, kBlock) * kRowBlockBytes;
    const bool wide = panel.widened != nullptr;
    if (wide) run.ahead = 0;  // it was prefetched while it was widened
    const TilesFn go = wide                              ? tiles_of<WideQ4Panel>(block.rows)
                       : panel.part->dtype == DType::kQ8 ? tiles_of<Q8Panel>(block.rows)
                                                         : tiles_of<Q4Panel>(block.rows);
    go(x_at(a, block, k), wide ? panel.widened : cells(panel, k), col, ceil_div(count, kBlock), run, out);
  }
  static void pack(const LinearFwd& a, const RowBlock& block, const float* x, int64_t stride, int64_t begin,
                   int64_t end) {
    const bool q4 = a.parts[0].dtype == DType::kQ4;
    const auto round = q4 ? round_rows<Q4Panel::kXScale> : round_rows<Q8Panel::kXScale>;
    round(x, stride, block.rows, end - begin, x_at(a, block, begin));
  }
};

}  // namespace

void linear_quant_fwd(const Stream& stream, const LinearFwd& a) {
  const Plan plan = plan_of<QuantEngine>(a, stream.pool->threads());
  if (a.x != nullptr) round_x<QuantEngine>(stream, a, plan);
  run_products<QuantEngine>(stream, a, plan);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
