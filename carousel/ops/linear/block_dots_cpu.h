// SPDX-License-Identifier: Apache-2.0
// The kernels of products with weights in blocks share this: the dot product of unsigned codes of weights with signed
// codes of x, the step from an integer sum to the chain, and the rounding of x. For *_cpu.cc files.
#pragma once

#include "carousel/ops/linear/linear_tiles_cpu.h"
#include "carousel/ops/linear/rounded_rows_cpu.h"

#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

// 32 registers hold 6 x 2 integer and as many float sums, 2 weights, 2 scales and x; 16 hold 3 x 2 integer sums, and
// the float sums come from the stack once per block of k.
#if defined(__AVX512F__)
constexpr int kMaxRows = 6;
#elif defined(__AVX2__)
constexpr int kMaxRows = 3;
#else
constexpr int kMaxRows = 2;
#endif
constexpr int kTileVecs = 2;

// AVX2's instruction multiplies unsigned with signed bytes and gives sums of two products in 16 bits.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#define CAROUSEL_PAIR_DOTS
#endif

// AVX2 and NEON multiply weights of up to 255 as signed bytes, q + 128 as q: their sums start from 0.
#if defined(CAROUSEL_PAIR_DOTS) || defined(CAROUSEL_NEON)
constexpr bool kSignedBytes = true;
#else
constexpr bool kSignedBytes = false;
#endif

/// How many groups of four columns add up in 16 bits before they are widened, weights being at most `most`. 1: none do,
/// or the instruction gives sums in 32 bits.
constexpr int64_t narrow_groups([[maybe_unused]] int most) {
  int64_t groups = 1;
#if defined(CAROUSEL_PAIR_DOTS)
  while (groups < kGroups && 2 * groups * 2 * 127 * most <= 32767) groups *= 2;
#endif
  return groups;
}

/// The sum times the scale of x. vscalefps runs beside the dot products; a multiplication would take their unit.
template <XScale kScale>
TILE_INLINE Vec scaled(IntVec sum, Vec scale) {
#if defined(__AVX512F__)
  const Vec value = _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum));
  return kScale == XScale::kExponent ? _mm512_scalef_ps(value, scale) : value * scale;
#else
  return __builtin_convertvector(sum, Vec) * scale;
#endif
}

/// sums[lane] += the four products of unsigned weights and signed x. kSmall: weights are below 128.
template <bool kSmall>
TILE_INLINE IntVec dot4(IntVec sums, IntVec weights, IntVec x) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(
      reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(weights), reinterpret_cast<__m512i>(x)));
#elif defined(CAROUSEL_PAIR_DOTS)
  const auto w = reinterpret_cast<__m256i>(weights), codes = reinterpret_cast<__m256i>(x);
  static_assert(!kSmall, "add_narrow() adds those");
  // The instruction takes one factor without its sign. A sum of two is at most 2 * 128 * 127: it fits.
  const __m256i q = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(codes, q));
  sums += reinterpret_cast<IntVec>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  asm("" : "+x"(sums));  // else the compiler adds in another order, for which it stores every product
  return sums;
#elif defined(__SSE2__)
  const auto w = reinterpret_cast<__m128i>(weights), codes = reinterpret_cast<__m128i>(x);
  const __m128i even =
      _mm_madd_epi16(_mm_and_si128(w, _mm_set1_epi16(255)), _mm_srai_epi16(_mm_slli_epi16(codes, 8), 8));
  const __m128i odd = _mm_madd_epi16(_mm_srli_epi16(w, 8), _mm_srai_epi16(codes, 8));
  return sums + reinterpret_cast<IntVec>(even) + reinterpret_cast<IntVec>(odd);
#elif defined(CAROUSEL_NEON)
  // The instruction multiplies signed bytes only: q + 128 becomes q, and sums start from 0 (kStartsAtZero).
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

/// Sums of products in 16 bits, of so many groups as narrow_groups() says.
TILE_INLINE IntVec add_narrow(IntVec sums, IntVec weights, IntVec x) {
#if defined(CAROUSEL_PAIR_DOTS)
  const __m256i pairs = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(weights), reinterpret_cast<__m256i>(x));
  sums = reinterpret_cast<IntVec>(_mm256_add_epi16(reinterpret_cast<__m256i>(sums), pairs));
  asm("" : "+x"(sums));  // else the compiler adds in another order, for which it stores every product
  return sums;
#else
  return dot4<true>(sums, weights, x);
#endif
}
/// Their sums in 32 bits.
TILE_INLINE IntVec in_32_bits(IntVec narrow) {
#if defined(CAROUSEL_PAIR_DOTS)
  return reinterpret_cast<IntVec>(_mm256_madd_epi16(reinterpret_cast<__m256i>(narrow), _mm256_set1_epi16(1)));
#else
  return narrow;
#endif
}

/// sums[r][v] += the products of kCount groups of four columns. group(i) is the number of the i-th of them, code(g, v)
/// the weights of vector v there. Weights are at most kMost; kNarrow of the groups are added in 16 bits. A row takes
/// kTogether groups before the next row does.
template <int kMost, int64_t kCount, int64_t kTogether = 1, int R, int V, class Group, class Code>
TILE_INLINE void dot_groups(IntVec (&sums)[R][V], const char* x, const Group& group, const Code& code) {
  constexpr int64_t kFit = narrow_groups(kMost), kNarrow = kFit < kCount ? kFit : kCount;
  constexpr int64_t kSpan = kNarrow < kTogether ? kTogether : kNarrow;  // groups between two sums in 32 bits
#pragma GCC unroll 8
  for (int64_t first = 0; first < kCount; first += kSpan) {
    IntVec narrow[R][V] = {};
#pragma GCC unroll 8
    for (int64_t i = first; i < first + kSpan; i += kTogether) {
      IntVec codes[kTogether][V];
#pragma GCC unroll 2
      for (int64_t j = 0; j < kTogether; ++j) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) codes[j][v] = code(group(i + j), v);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int64_t j = 0; j < kTogether; ++j) {
          const IntVec x_r = set1_int(x + (group(i + j) * R + r) * 4);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) {
            if constexpr (kNarrow > 1) {
              narrow[r][v] = add_narrow(narrow[r][v], codes[j][v], x_r);
            } else {
              sums[r][v] = dot4<(kMost < 128)>(sums[r][v], codes[j][v], x_r);
            }
          }
        }
      }
    }
    if constexpr (kNarrow == 1) continue;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] += in_32_bits(narrow[r][v]);
    }
  }
}

/// Rounds x for the tiles of an engine, over the threads.
template <class Engine>
void round_x(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  constexpr int64_t kPiece = 32 * kBlock;
  const auto round = [&](int64_t b, int64_t begin, int64_t end) {
    const RowBlock block = row_block(plan, b);
    Engine::pack(a, block, a.x + block.first * a.K + begin, a.K, begin, end);
  };
  if (a.N * a.K <= 8 * kPiece) {  // one thread is quicker than waking the others
    for (int64_t b = 0; b < plan.blocks; ++b) round(b, 0, a.K);
    return;
  }
  const int64_t pieces = plan.blocks >= 4 * stream.pool->threads() ? 1 : ceil_div(a.K, kPiece);
  parallel_for(*stream.pool, plan.blocks * pieces, [&](int64_t i) {
    const int64_t begin = i % pieces * kPiece, end = pieces == 1 ? a.K : least(begin + kPiece, a.K);
    round(i / pieces, begin, end);
  });
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
