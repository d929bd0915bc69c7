// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over panels of q8 or q4. x is rounded to 8 bits in blocks of 32 along k, each with a scale of its own,
// before q4 a power of two; the 32 products of a block are summed as integers, exactly, and one fused multiply-add per
// block takes the sum, times both scales, into the element's chain in the order of k. How the work is cut is in
// linear_tiles.h.
//
// Codes of weights are unsigned (q + 128, q + 8), as the dot instructions ask for; a block of x carries -128 and -8
// times the sum of its codes, from which the integer sums start.
#include "carousel/ops/block_scale.h"
#include "carousel/ops/linear_tiles.h"

#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockValues);
constexpr int64_t kGroups = kBlock / 4;  // of four columns, the unit of a dot instruction
typedef int8_t CodeVec __attribute__((vector_size(kLanes)));
constexpr int64_t kScaleBytes = kPanelRows * 2;

// 32 registers hold 6 x 2 integer and as many float sums, 2 weights, 2 scales and x; 16 hold 2 x 2 of each.
#if defined(__AVX512F__)
constexpr int kMaxRows = 6;
#else
constexpr int kMaxRows = 2;
#endif
constexpr int kTileVecs = 2;

/// A block of x of R rows: codes s8 [8][R][4], scales or their exponents f32 [R], -128 times the sum of the codes i32
/// [R], -8 times i32 [R].
constexpr int64_t kRowBlockBytes = kBlock + 12;

// How far ahead of the tile the panel is asked for.
constexpr int64_t kPrefetchBytes = 4096;

/// The sum times the scale of x. kPowers: the scale is a power of two, with AVX-512 given as its exponent; vscalefps
/// runs beside the dot products, a multiplication in their place.
template <bool kPowers>
TILE_INLINE Vec scaled(IntVec sum, Vec factor) {
#if defined(__AVX512F__)
  const Vec value = _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum));
  return kPowers ? _mm512_scalef_ps(value, factor) : value * factor;
#else
  return __builtin_convertvector(sum, Vec) * factor;
#endif
}
#if defined(__AVX512F__)
constexpr bool kByExponent = true;
#else
constexpr bool kByExponent = false;
#endif

/// sums[lane] += the four products of unsigned weights and signed x. kSmall: weights are below 16.
template <bool kSmall>
TILE_INLINE IntVec dot4(IntVec sums, IntVec weights, IntVec x) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(
      reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(weights), reinterpret_cast<__m512i>(x)));
#elif defined(__AVX2__)
  const auto w = reinterpret_cast<__m256i>(weights), codes = reinterpret_cast<__m256i>(x);
  if (kSmall) {  // pairs stay below 2 * 15 * 127
    const __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(w, codes), _mm256_set1_epi16(1));
    return sums + reinterpret_cast<IntVec>(pairs);
  }
  const __m256i even =
      _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(codes, 8));
  return sums + reinterpret_cast<IntVec>(even) + reinterpret_cast<IntVec>(odd);
#elif defined(__SSE2__)
  const auto w = reinterpret_cast<__m128i>(weights), codes = reinterpret_cast<__m128i>(x);
  const __m128i even =
      _mm_madd_epi16(_mm_and_si128(w, _mm_set1_epi16(255)), _mm_srai_epi16(_mm_slli_epi16(codes, 8), 8));
  const __m128i odd = _mm_madd_epi16(_mm_srli_epi16(w, 8), _mm_srai_epi16(codes, 8));
  return sums + reinterpret_cast<IntVec>(even) + reinterpret_cast<IntVec>(odd);
#elif defined(CAROUSEL_NEON)
  // Products of signed bytes alone: of q + 128 the codes q, whose sums start from 0 (kStartsAtZero).
  const IntVec sign_bits = IntVec{} + static_cast<int32_t>(kSmall ? 0 : 0x80808080);
  const auto w = (int8x16_t)(weights ^ sign_bits), codes = (int8x16_t)x;
#if defined(__ARM_FEATURE_DOTPROD)
  return (IntVec)vdotq_s32((int32x4_t)sums, w, codes);
#else
  // The largest pair is 2 * 128 * 127: it fits.
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(codes)), high = vmull_high_s8(w, codes);
  return (IntVec)vpadalq_s16((int32x4_t)sums, vpaddq_s16(low, high));
#endif
#else
  for (int shift = 0; shift < 32; shift += 8) sums += ((weights >> shift) & 255) * ((x << (24 - shift)) >> 24);
  return sums;
#endif
}

struct Q8Panel {
  static constexpr bool kPowers = false;  // scales of x, see block_scale.h
  static constexpr int64_t kBytes = Weight::kQ8PanelBlockBytes;
#if defined(CAROUSEL_NEON)
  static constexpr bool kStartsAtZero = true;
#else
  static constexpr bool kStartsAtZero = false;
#endif
  static constexpr int64_t kSumOffset = 4;  // of its starting sum, behind the scale of x: times R
  /// sums[r][v] += the block's products.
  template <int R, int V>
  TILE_INLINE static void dot(IntVec (&sums)[R][V], const char* x, const char* cells) {
#pragma GCC unroll 8
    for (int64_t g = 0; g < kGroups; ++g) {
      IntVec w[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) w[v] = load_int(cells + g * kPanelRows * 4 + v * kLanes * 4);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const IntVec x_r = set1_int(x + (g * R + r) * 4);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = dot4<false>(sums[r][v], w[v], x_r);
      }
    }
  }
};

struct Q4Panel {
  static constexpr bool kPowers = true;
  static constexpr int64_t kBytes = Weight::kQ4PanelBlockBytes;
  static constexpr bool kStartsAtZero = false;
  static constexpr int64_t kSumOffset = 8;
  template <int R, int V>
  TILE_INLINE static void dot(IntVec (&sums)[R][V], const char* x, const char* cells) {
#pragma GCC unroll 4
    for (int64_t g = 0; g < kGroups / 2; ++g) {
      IntVec low[V], high[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const IntVec pairs = load_int(cells + g * kPanelRows * 4 + v * kLanes * 4);
        low[v] = pairs & 0x0F0F0F0F;
        high[v] = (pairs >> 4) & 0x0F0F0F0F;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const IntVec x_low = set1_int(x + (g * R + r) * 4);
        const IntVec x_high = set1_int(x + ((g + kGroups / 2) * R + r) * 4);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = dot4<true>(sums[r][v], low[v], x_low);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = dot4<true>(sums[r][v], high[v], x_high);
      }
    }
  }
};

/// One tile over `blocks` blocks of k.
///   x: blocks of R rows   panel: from its block on   col: of the panel, the tile's first output row
template <class Panel, int R>
void tile(const char* x, const char* panel, int64_t col, int64_t blocks, const TileOut& out) {
  constexpr int V = kTileVecs;
  Vec acc[R][V] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  const char* cells = panel + col * 4;
  const char* scales = panel + Panel::kBytes - kScaleBytes + col * 2;
  for (; blocks > 0; --blocks) {
#pragma GCC unroll 32
    for (int64_t line = 0; line < Panel::kBytes; line += 64) __builtin_prefetch(cells + kPrefetchBytes + line, 0, 3);
    IntVec sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const IntVec start = Panel::kStartsAtZero ? IntVec{} : set1_int(x + R * (kBlock + Panel::kSumOffset) + r * 4);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = start;
    }
    Panel::dot(sums, x, cells);
    Vec scale[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) scale[v] = load_f16(scales + v * kLanes * 2);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec factor = set1(load_float(x + R * kBlock + r * 4));
      // The sum times one scale, then the other: multiplying the scales first takes as many instructions, but ran at
      // 67 % of the int8 peak instead of 78.
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = fma(scaled<Panel::kPowers>(sums[r][v], factor), scale[v], acc[r][v]);
    }
    x += R * kRowBlockBytes;
    cells += Panel::kBytes;
    scales += Panel::kBytes;
  }
  leave_tile(acc, out);
}

using TileFn = void (*)(const char* x, const char* panel, int64_t col, int64_t blocks, const TileOut& out);

template <class Panel>
TileFn tile_of(int64_t rows) {
  return for_rows<kMaxRows>(rows, [](auto r) -> TileFn { return tile<Panel, r.kValue>; });
}

struct QuantEngine {
  static constexpr int kMaxRows = CAROUSEL_ISA::kMaxRows;
  static constexpr int64_t kSlabCols = 512;
  static constexpr int tile_vecs(int) { return kTileVecs; }
  static int64_t block_bytes(DType dtype) { return dtype == DType::kQ8 ? Q8Panel::kBytes : Q4Panel::kBytes; }
  static int64_t column_bytes(DType dtype, int64_t k) { return ceil_div(k, kBlock) * block_bytes(dtype); }
  static char* x_at(const LinearFwd& a, const RowBlock& block, int64_t k) {
    return reinterpret_cast<char*>(a.packed) +
           (block.first * ceil_div(a.K, kBlock) + block.rows * (k / kBlock)) * kRowBlockBytes;
  }
  static void tile(const LinearFwd& a, const FoundPanel& panel, const RowBlock& block, int64_t k, int64_t col,
                   int64_t count, const TileOut& out) {
    const DType dtype = panel.part->dtype;
    const char* const from = panel.bytes + column_bytes(dtype, k);
    const TileFn run = dtype == DType::kQ8 ? tile_of<Q8Panel>(block.rows) : tile_of<Q4Panel>(block.rows);
    run(x_at(a, block, k), from, col, ceil_div(count, kBlock), out);
  }
};

/// Lane i: the lanes of v[i], joined.
template <class Join>
TILE_INLINE IntVec join_lanes(IntVec (&v)[kLanes], const Join& join) {
#pragma GCC unroll 4
  for (int64_t count = kLanes / 2; count > 0; count /= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < count; ++i)
      v[i] = join(even_lanes(v[2 * i], v[2 * i + 1]), odd_lanes(v[2 * i], v[2 * i + 1]));
  }
  return v[0];
}

// How far ahead x is asked for; halving it takes a half longer where x is not in a near cache.
constexpr uintptr_t kRowPrefetch = 4096;

/// The largest magnitudes of kLanes blocks, 0 behind `count`.
TILE_INLINE Vec peaks_of(const float* x, int64_t count) {
  const auto* const ahead = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(x) + kRowPrefetch);
  IntVec magnitudes[kLanes];  // as integers they have the order of the values, NaN last
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    magnitudes[i] = IntVec{};
    if (i >= count) continue;
    for (int64_t j = 0; j < kBlock; j += 16) __builtin_prefetch(ahead + (i * kBlock + j) * 4, 0, 3);
#pragma GCC unroll 8
    for (int64_t j = i * kBlock; j < (i + 1) * kBlock; j += kLanes) {
      magnitudes[i] = max(magnitudes[i], as_int(load(x + j)) & 0x7FFFFFFF);
    }
  }
  return as_float(join_lanes(magnitudes, [](IntVec a, IntVec b) { return max(a, b); }));
}

/// `count` blocks of one row, up to kLanes of them, as row r of `rows` each.
template <bool kPowers>
void quantise(const float* x, int64_t count, int64_t r, int64_t rows, char* out) {
  const BlockScales scales = block_scales<kPowers>(peaks_of(x, count));
  float inverse[kLanes];
  store(inverse, scales.inverse);
  alignas(64) int8_t codes[kLanes][kBlock];
  IntVec totals[kLanes];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    totals[i] = IntVec{};
    if (i >= count) continue;
#pragma GCC unroll 8
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      const IntVec wide = codes_of(load(x + i * kBlock + j), set1(inverse[i]));
      totals[i] += wide;
      CodeVec narrow = __builtin_convertvector(wide, CodeVec);
#if defined(__AVX512F__)
      asm("" : "+v"(narrow));  // in a register: to memory the instruction is slow
#endif
      std::memcpy(codes[i] + j, &narrow, sizeof narrow);
    }
  }
  const IntVec total = join_lanes(totals, [](IntVec a, IntVec b) { return a + b; });
  float factor[kLanes];
  store(factor, kPowers && kByExponent ? scales.exponent : scales.scale);
  const IntVec starts[2] = {total * -128, total * -8};
  for (int64_t i = 0; i < count; ++i, out += rows * kRowBlockBytes) {
#pragma GCC unroll 8
    for (int64_t g = 0; g < kGroups; ++g) std::memcpy(out + (g * rows + r) * 4, codes[i] + g * 4, 4);
    std::memcpy(out + rows * kBlock + r * 4, &factor[i], 4);
    std::memcpy(out + rows * (kBlock + 4) + r * 4, reinterpret_cast<const char*>(&starts[0]) + i * 4, 4);
    std::memcpy(out + rows * (kBlock + 8) + r * 4, reinterpret_cast<const char*>(&starts[1]) + i * 4, 4);
  }
}

/// The last block of a row, `count` values and zeros.
template <bool kPowers>
void quantise_end(const float* x, int64_t count, int64_t r, int64_t rows, char* out) {
  float values[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) values[i] = i < count ? x[i] : 0.0f;
  quantise<kPowers>(values, 1, r, rows, out);
}

/// Columns begin to end of one row block; begin is a multiple of a block.
template <bool kPowers>
void quantise_rows(const LinearFwd& a, const RowBlock& block, int64_t begin, int64_t end) {
  const int64_t whole = begin + (end - begin) / kBlock * kBlock;
  for (int64_t r = 0; r < block.rows; ++r) {
    const float* const x = a.x + (block.first + r) * a.K;
    for (int64_t k = begin; k < whole; k += kLanes * kBlock) {
      quantise<kPowers>(x + k, least(kLanes, (whole - k) / kBlock), r, block.rows, QuantEngine::x_at(a, block, k));
    }
    if (whole < end) quantise_end<kPowers>(x + whole, end - whole, r, block.rows, QuantEngine::x_at(a, block, whole));
  }
}

template <bool kPowers>
void quantise_x(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  constexpr int64_t kPiece = 32 * kBlock;
  if (a.N * a.K <= 8 * kPiece) {  // quicker than to wake the threads
    for (int64_t b = 0; b < plan.blocks; ++b) quantise_rows<kPowers>(a, row_block(a, plan, b), 0, a.K);
    return;
  }
  const int64_t pieces = plan.blocks >= 4 * stream.pool->threads() ? 1 : ceil_div(a.K, kPiece);
  parallel_for(*stream.pool, plan.blocks * pieces, [&](int64_t i) {
    const int64_t begin = i % pieces * kPiece, end = pieces == 1 ? a.K : least(begin + kPiece, a.K);
    quantise_rows<kPowers>(a, row_block(a, plan, i / pieces), begin, end);
  });
}

}  // namespace

void linear_quant_fwd(const Stream& stream, const LinearFwd& a) {
  const Plan plan = plan_of<QuantEngine>(a, stream.pool->threads());
  if (a.parts[0].dtype == DType::kQ4)
    quantise_x<Q4Panel::kPowers>(stream, a, plan);
  else
    quantise_x<Q8Panel::kPowers>(stream, a, plan);
  run_products<QuantEngine>(stream, a, plan);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
