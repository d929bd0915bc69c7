// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over panels of GGUF's blocks with several scales (ops/weight/block_forms.h draws them). x is rounded as
// for q8 and q4: to 8 bits in blocks of 32 along k, each with a scale of its own. Columns that share a scale of the
// weight, 32 or 16 of them, are one sum of integers, exact; one fused multiply-add takes it, times both scales, into
// the element's chain, and another one the minimum times the sum of x, where the type has minima. How the work is cut
// is in linear_tiles_cpu.h.
//
// One block of rows multiplies the packed codes. For more, a piece of panel is widened once, to bytes and f32 scales,
// and every block of rows multiplies that: the same integers and the same scales, so the same bits.
//
// Codes are unsigned, as the dot instructions require. What a type subtracts from them comes in by the sums of x's
// codes: as integers where a value is scale * (code - zero), scaled where a minimum is subtracted (XSums).
#include "carousel/ops/linear/block_dots_cpu.h"
#include "carousel/ops/weight/block_forms.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

namespace forms = ops::block_forms;

/// A tile needs to know this of a type once its codes are bytes. Types that agree in it share their widened tiles.
template <bool kHalves_, bool kHasMin_, bool kPeak, int kMost_>
struct Traits {
  static constexpr bool kHalves = kHalves_;  // 16 columns share a scale, not 32
  static constexpr bool kHasMin = kHasMin_;
  static constexpr int kMost = kMost_;                    // codes are at most that
  static constexpr int64_t kSubs = kHalves ? 2 : 1;       // sums of 32 columns
  static constexpr int64_t kSubGroups = kGroups / kSubs;  // groups of a sum
#if defined(__AVX512F__)
  static constexpr XScale kXScale = kPeak ? XScale::kPeak : XScale::kExponent;
#else
  static constexpr XScale kXScale = kPeak ? XScale::kPeak : XScale::kPower;
#endif
  static constexpr bool kStartsAtZero = kHasMin || (kSignedBytes && kMost > 127);
};
/// The largest code; of bytes below 128 it is 127 for all types where that decides nothing, so that they share tiles.
template <class F>
constexpr int kMostCode = F::kLevels                               ? 255
                          : narrow_groups(127) == narrow_groups(3) ? 127
                                                                   : (1 << (F::kLowBits + F::kHighBits)) - 1;
template <class F>
using TraitsOf = Traits<F::kSub == 16, F::kHasMin, F::kRounding == forms::Rounding::kPeak, kMostCode<F>>;

template <class F>
constexpr XSums kXSums = {F::kHasMin ? XSums::kScaled : XSums::kTimes,
                          !F::kHasMin   ? -F::kZero
                          : F::kAddsMin ? 1
                                        : -1,
                          F::kSub == 16};

/// kLanes u16, widened.
TILE_INLINE IntVec load_u16(const char* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#else
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return __builtin_convertvector(halves, IntVec);
#endif
}

/// The levels that four codes are the indices of, plus 128.
TILE_INLINE IntVec levels_of(IntVec codes) {
  alignas(16) static constexpr uint8_t kTable[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                     129, 141, 153, 166, 181, 197, 217, 241};
#if defined(__AVX512F__)
  const __m512i table = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kTable)));
  return reinterpret_cast<IntVec>(_mm512_shuffle_epi8(table, reinterpret_cast<__m512i>(codes)));
#elif defined(__AVX2__)
  const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kTable)));
  return reinterpret_cast<IntVec>(_mm256_shuffle_epi8(table, reinterpret_cast<__m256i>(codes)));
#elif defined(CAROUSEL_NEON)
  return (IntVec)vqtbl1q_u8(vld1q_u8(kTable), (uint8x16_t)codes);
#else
  uint8_t bytes[sizeof codes];
  std::memcpy(bytes, &codes, sizeof codes);
  for (uint8_t& byte : bytes) byte = kTable[byte];
  std::memcpy(&codes, bytes, sizeof codes);
  return codes;
#endif
}

/// The codes of group g as bytes, from the planes of 32 columns at a vector's first row.
template <class F>
TILE_INLINE IntVec codes_at(const char* planes, int64_t g) {
  const IntVec codes = forms::group_codes<F>(
      static_cast<int>(g), [&](int64_t offset) CAROUSEL_INLINE_LAMBDA { return load_int(planes + offset); });
  return F::kLevels ? levels_of(codes) : codes;
}

/// The scales and minima of a unit's sub-blocks, f32 [kValues / kSub][stride], for V vectors of rows from row `col` on.
template <class F, int V>
TILE_INLINE void read_scales(const char* unit, int64_t col, float* scale, float* min, int64_t stride) {
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const int64_t row = col + v * kLanes;
    const Vec d = load_f16(unit + 2 * row);
    const Vec dmin = F::kHasMin ? load_f16(unit + forms::kHalfBytes + 2 * row) : Vec{};
    IntVec words[F::kWords + F::kHalves + 1] = {};
    const char* at = unit + forms::kFirstWord<F>;
    for (int i = 0; i < F::kWords; ++i) words[i] = load_int(at + i * forms::kWordBytes + 4 * row);
    for (int i = 0; i < F::kHalves; ++i) words[F::kWords + i] = load_u16(at + F::kWords * forms::kWordBytes + 2 * row);
#pragma GCC unroll 16
    for (int s = 0; s < static_cast<int>(F::kValues / F::kSub); ++s) {
      const bool whole = F::kWords == 0;  // d is the scale itself
      store(scale + s * stride + v * kLanes, whole ? d : d * __builtin_convertvector(F::scale_code(words, s), Vec));
      if (F::kHasMin) {
        store(min + s * stride + v * kLanes, whole ? dmin : dmin * __builtin_convertvector(F::min_code(words, s), Vec));
      }
    }
  }
}

/// A tile finds the scales and minima of 32 columns here.
struct Columns32 {
  const float *scale, *min;  // [kSubs][stride]
  int64_t stride;
};

/// acc += the products of 32 columns. code(g, v) is group g of vector v as bytes.
template <class T, int R, class Code>
TILE_INLINE void multiply(Vec (&acc)[R][kTileVecs], const char* x, const Columns32& w, const Code& code) {
  constexpr int V = kTileVecs;
#pragma GCC unroll 2
  for (int64_t p = 0; p < T::kSubs; ++p) {
    const char* const x_sums = x + R * (p == 0 ? kFirstSum : kSecondSum);
    IntVec sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = T::kStartsAtZero ? IntVec{} : set1_int(x_sums + r * 4);
    }
    // Groups that share words follow each other, where both are in this sum.
    const auto group = [&](int64_t i) CAROUSEL_INLINE_LAMBDA {
      return T::kHalves ? p * T::kSubGroups + i : i / 2 + i % 2 * (kGroups / 2);
    };
    dot_groups<T::kMost, T::kSubGroups>(sums, x, group, code);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec x_scale = set1(load_float(x + R * kBlock + r * 4));
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Vec scale = load(w.scale + p * w.stride + v * kLanes);
        acc[r][v] = fma(scaled<T::kXScale>(sums[r][v], x_scale), scale, acc[r][v]);
        if (T::kHasMin) {
          acc[r][v] = fma(set1(load_float(x_sums + r * 4)), load(w.min + p * w.stride + v * kLanes), acc[r][v]);
        }
      }
    }
  }
}

/// How far ahead of a tile its panel is prefetched. Types of one high bit are prefetched into the second level of
/// cache, twice as far ahead: one row of Q5_K takes 0.8 of the time, where Q4_K would take 1.1 (docs/notes).
constexpr int64_t kPanelAhead = 4096;
template <class F>
constexpr bool kPrefetchesFar = F::kHighBits == 1;

/// One tile over packed codes.
///   x: blocks of R rows   unit: the panel, from the tile's first column of k on   col: its first output row there
template <class F, int R>
void packed_tile(const char* x, const char* unit, int64_t col, int64_t blocks, int64_t ahead, const TileOut& out) {
  constexpr int V = kTileVecs;
  constexpr int64_t kWidth = V * kLanes, kUnitBlocks = F::kValues / kBlock;
  constexpr int64_t kShare = forms::kUnitBytes<F> / kUnitBlocks;  // bytes of a unit that 32 columns prefetch
  using T = TraitsOf<F>;
  Vec acc[R][V] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  for (; blocks > 0; blocks -= kUnitBlocks, unit += forms::kUnitBytes<F>) {
    alignas(64) float scale[F::kValues / F::kSub * kWidth], min[F::kHasMin ? F::kValues / F::kSub * kWidth : 1];
    read_scales<F, V>(unit, col, scale, min, kWidth);
    const char* planes = unit + forms::kFirstCode<F> + col * 4;
    const int64_t here = least(blocks, kUnitBlocks);
    for (int64_t b = 0; b < here; ++b, planes += forms::kPlaneBytes<F>, x += R * kRowBlockBytes) {
      const int64_t farther = kPrefetchesFar<F> && ahead == kPanelAhead ? kPanelAhead : 0;  // not of another piece
      const char* const soon = unit + ahead + farther + b * kShare + col * 4;
#pragma GCC unroll 16
      for (int64_t line = 0; line < kShare; line += kLineBytes) {
        if constexpr (kPrefetchesFar<F>) prefetch_far(soon + line);
        if constexpr (!kPrefetchesFar<F>) prefetch_near(soon + line);
      }
      const int64_t sub = b * T::kSubs * kWidth;
      multiply<T, R>(acc, x, {scale + sub, F::kHasMin ? min + sub : nullptr, kWidth},
                     [&](int64_t g, int v) CAROUSEL_INLINE_LAMBDA { return codes_at<F>(planes + v * kLanes * 4, g); });
    }
  }
  leave_tile(acc, out);
}

// A widened piece: per 32 columns the codes u8 [8][32 rows][4], then scales f32 [kSubs][32] and minima f32 [kSubs][32].
constexpr int64_t kCodeBytes = kBlock * kPanelRows, kScaleRow = kPanelRows * 4;
template <class T>
constexpr int64_t kWideBytes = kCodeBytes + T::kSubs*(T::kHasMin ? 2 : 1) * kScaleRow;
constexpr int64_t kMostWideBytes = kCodeBytes + 4 * kScaleRow;

/// Widens `blocks` times 32 columns of a panel.
template <class F>
void widen_piece(const char* unit, int64_t blocks, int64_t ahead, char* wide) {
  constexpr int64_t kUnitBlocks = F::kValues / kBlock, kShare = forms::kUnitBytes<F> / kUnitBlocks;
  using T = TraitsOf<F>;
  for (; blocks > 0; blocks -= kUnitBlocks, unit += forms::kUnitBytes<F>) {
    alignas(64) float scale[F::kValues / F::kSub * kPanelRows], min[F::kHasMin ? F::kValues / F::kSub * kPanelRows : 1];
    read_scales<F, kPanelVecs>(unit, 0, scale, min, kPanelRows);
    const int64_t here = least(blocks, kUnitBlocks);
    for (int64_t b = 0; b < here; ++b, wide += kWideBytes<T>) {
      for (int64_t line = 0; line < kShare; line += kLineBytes) prefetch_near(unit + ahead + b * kShare + line);
      const char* const planes = unit + forms::kFirstCode<F> + b * forms::kPlaneBytes<F>;
#pragma GCC unroll 8
      for (int64_t g = 0; g < kGroups; ++g) {
        for (int64_t i = 0; i < kPanelRows * 4; i += kLanes * 4) {
          const IntVec codes = codes_at<F>(planes + i, g);
          std::memcpy(wide + g * kPanelRows * 4 + i, &codes, sizeof codes);
        }
      }
      std::memcpy(wide + kCodeBytes, scale + b * T::kSubs * kPanelRows, T::kSubs * kScaleRow);
      if (F::kHasMin) {
        std::memcpy(wide + kCodeBytes + T::kSubs * kScaleRow, min + b * T::kSubs * kPanelRows, T::kSubs * kScaleRow);
      }
    }
  }
}

/// One tile over a widened piece.
template <class T, int R>
void wide_tile(const char* x, const char* wide, int64_t col, int64_t blocks, const TileOut& out) {
  Vec acc[R][kTileVecs] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  for (; blocks > 0; --blocks, wide += kWideBytes<T>, x += R * kRowBlockBytes) {
    const auto* const scale = reinterpret_cast<const float*>(wide + kCodeBytes) + col;
    multiply<T, R>(acc, x, {scale, scale + T::kSubs * kPanelRows, kPanelRows},
                   [&](int64_t g, int v)
                       CAROUSEL_INLINE_LAMBDA { return load_int(wide + (g * kPanelRows + col + v * kLanes) * 4); });
  }
  leave_tile(acc, out);
}

struct Call {
  const char *x, *cells;
  int64_t col, blocks;
};
using TilesFn = void (*)(const Call& call, const Run& run, const TileOut& out);

template <class F>
TilesFn packed_tiles(int64_t rows) {
  return for_rows<kMaxRows>(rows, [](auto r) -> TilesFn {
    return [](const Call& call, const Run& run, const TileOut& out) {
      constexpr int R = decltype(r)::kValue;
      for_blocks<R>(call.x, run, out, [&](const char* x, const TileOut& to) CAROUSEL_INLINE_LAMBDA {
        packed_tile<F, R>(x, call.cells, call.col, call.blocks, run.ahead, to);
      });
    };
  });
}
template <class T>
TilesFn wide_tiles(int64_t rows) {
  return for_rows<kMaxRows>(rows, [](auto r) -> TilesFn {
    return [](const Call& call, const Run& run, const TileOut& out) {
      constexpr int R = decltype(r)::kValue;
      for_blocks<R>(call.x, run, out, [&](const char* x, const TileOut& to) CAROUSEL_INLINE_LAMBDA {
        wide_tile<T, R>(x, call.cells, call.col, call.blocks, to);
      });
    };
  });
}

struct BlocksEngine {
  static constexpr int kMaxRows = CAROUSEL_ISA::kMaxRows;
  static constexpr int64_t kSlabCols = 512, kPrefetchBytes = kPanelAhead;
  static constexpr int64_t kWidenedBytes = kSlabCols / kBlock * kMostWideBytes;
  static constexpr int tile_vecs(int) { return kTileVecs; }
  static int64_t column_bytes(DType dtype, int64_t k) {
    int64_t bytes = 0;
    forms::with_form(dtype, [&](auto form) CAROUSEL_INLINE_LAMBDA {
      bytes = ceil_div(k, decltype(form)::kValues) * forms::kUnitBytes<decltype(form)>;
    });
    return bytes;
  }
  static char* x_at(const LinearFwd& a, const RowBlock& block, int64_t k) {
    return reinterpret_cast<char*>(a.packed) +
           (block.first * ceil_div(a.K, kBlock) + block.rows * (k / kBlock)) * kRowBlockBytes;
  }
  static const char* cells(const FoundPanel& panel, int64_t k) {
    return panel.bytes + column_bytes(panel.part->dtype, k);
  }
  static bool widens(DType, int64_t blocks) { return blocks > 1; }
  static void widen(const FoundPanel& panel, int64_t k, int64_t count, char* wide) {
    forms::with_form(panel.part->dtype, [&](auto form) CAROUSEL_INLINE_LAMBDA {
      widen_piece<decltype(form)>(cells(panel, k), ceil_div(count, kBlock), kPrefetchBytes, wide);
    });
  }
  static void tiles(const LinearFwd& a, const FoundPanel& panel, const RowBlock& block, int64_t k, int64_t col,
                    int64_t count, Run run, const TileOut& out) {
    run.x_step = block.rows * ceil_div(a.K, kBlock) * kRowBlockBytes;
    const bool wide = panel.widened != nullptr;
    const Call call = {x_at(a, block, k), wide ? panel.widened : cells(panel, k), col, ceil_div(count, kBlock)};
    forms::with_form(panel.part->dtype, [&](auto form) CAROUSEL_INLINE_LAMBDA {
      using F = decltype(form);
      (wide ? wide_tiles<TraitsOf<F>>(block.rows) : packed_tiles<F>(block.rows))(call, run, out);
    });
  }
  static void pack(const LinearFwd& a, const RowBlock& block, const float* x, int64_t stride, int64_t begin,
                   int64_t end) {
    forms::with_form(a.parts[0].dtype, [&](auto form) CAROUSEL_INLINE_LAMBDA {
      using F = decltype(form);
      round_rows<TraitsOf<F>::kXScale, kXSums<F>>(x, stride, block.rows, end - begin, x_at(a, block, begin));
    });
  }
};

}  // namespace

void linear_blocks_fwd(const Stream& stream, const LinearFwd& a) {
  const Plan plan = plan_of<BlocksEngine>(a, stream.pool->threads());
  if (a.x != nullptr) round_x<BlocksEngine>(stream, a, plan);
  run_products<BlocksEngine>(stream, a, plan);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
