// SPDX-License-Identifier: Apache-2.0
// f32 vectors of the instruction set this translation unit is compiled for. Every *_cpu.cc is built once per set, in
// namespace carousel::cpu::CAROUSEL_ISA (portable, avx2, avx512, neon, neon_dotprod); kernel.h chooses among them at
// run time. Those files use no inline code of the standard library beyond <cmath> scalars: an AVX-512 copy of a shared
// inline function could be the one the linker keeps, and would then crash older machines. A test reads the symbol
// tables.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined( \
    CAROUSEL_NEON)  // not __ARM_NEON, which every aarch64 compiler defines: the portable set does without NEON
#include <arm_neon.h>
#endif

#include "carousel/core/dtype.h"

#ifndef CAROUSEL_ISA
#error "vec.h belongs in *_cpu.cc files, which the build compiles once per instruction set"
#endif

#define CAROUSEL_INLINE __attribute__((always_inline)) inline
#define CAROUSEL_INLINE_LAMBDA __attribute__((always_inline))  // stands after the lambda's parameters

namespace carousel::cpu::CAROUSEL_ISA {

// Arithmetic on Vec uses the compiler's operators: + - * / and unary -. Nothing is contracted: fma is written out.
#if defined(__AVX512F__)
using Vec = __m512;
#elif defined(__AVX2__)
using Vec = __m256;
#elif defined(CAROUSEL_NEON)
using Vec = float32x4_t;
#else
typedef float Vec __attribute__((vector_size(16)));
#endif
constexpr int64_t kLanes = static_cast<int64_t>(sizeof(Vec) / sizeof(float));

typedef int32_t IntVec __attribute__((vector_size(sizeof(Vec))));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec set1(float x) { return x - Vec{}; }  // x - 0 is x in every bit, so the compiler drops it; x + 0 is not

/// The same bits, as the other type.
inline Vec as_float(IntVec bits) {
  Vec v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
inline IntVec as_int(Vec v) {
  IntVec bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

// Loads from packed bytes, at any alignment.
inline float load_float(const char* p) {
  float value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
inline IntVec load_int(const char* p) {
  IntVec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
/// The 32 bits at p in every lane.
inline IntVec set1_int(const char* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof value);
  return value - IntVec{};
}

#if !defined(__AVX2__)
/// f16 in the low half of each lane, widened exactly; the upper halves may hold anything.
inline Vec widen_f16(IntVec bits) {
  const IntVec magnitude = (bits & 0x7FFF) << 13;
  const Vec scaled = as_float(magnitude) * set1(0x1p112f);  // moves the exponent bias, exactly, for subnormals too
  const IntVec special = (magnitude >= (0x7C00 << 13)) & 0x7F800000;  // infinity and NaN keep the top exponent
  return as_float(as_int(scaled) | special | ((bits & 0x8000) << 16));
}
#endif

/// kLanes f16, widened.
inline Vec load_f16(const char* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(CAROUSEL_NEON)
  float16x4_t half;
  std::memcpy(&half, p, sizeof half);
  return vcvt_f32_f16(half);
#else
  uint16_t half[kLanes];
  std::memcpy(half, p, sizeof half);
  IntVec bits;
  for (int64_t i = 0; i < kLanes; ++i) bits[i] = half[i];
  return widen_f16(bits);
#endif
}

/// a * b + c, rounded once where the hardware can (AVX2 and up, NEON), twice in the portable build.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(CAROUSEL_NEON)
  return vfmaq_f32(c, a, b);
#elif defined(CAROUSEL_PLAIN)  // compiled for machines that may have no such instruction, with its result on all
  Vec sum;
  for (int64_t i = 0; i < kLanes; ++i) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return sum;
#else
  return a * b + c;
#endif
}
/// The scalar twin: the same rounding as one lane of fma(Vec).
inline float fma1(float a, float b, float c) {
#if defined(__AVX2__) || defined(CAROUSEL_NEON) || defined(CAROUSEL_PLAIN)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
inline Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

/// Lanes added pairwise in one fixed order: the upper half onto the lower, until one is left.
inline float sum(Vec v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
  const __m256 eight = v;
#endif
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof v);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
#endif
}
inline float max_lane(Vec v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
  const __m256 eight = v;
#endif
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof v);
  float best = lane[0];
  for (int64_t i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
#endif
}

inline IntVec max(IntVec a, IntVec b) { return a > b ? a : b; }

/// Every second lane of a from lane kFirst on, then every second lane of b.
template <int kFirst>
inline IntVec every_second(IntVec a, IntVec b) {
  constexpr int f = kFirst;
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, f, f + 2, f + 4, f + 6, f + 8, f + 10, f + 12, f + 14, f + 16, f + 18, f + 20,
                                 f + 22, f + 24, f + 26, f + 28, f + 30);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, f, f + 2, f + 4, f + 6, f + 8, f + 10, f + 12, f + 14);
#else
  return __builtin_shufflevector(a, b, f, f + 2, f + 4, f + 6);
#endif
}

/// The upper half of a vector onto the lower, until one lane is left.
template <class Join>
inline int32_t fold(IntVec v, const Join& join) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m512i all = reinterpret_cast<__m512i>(v);
  const __m256i eight = join(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
#else
  const __m256i eight = reinterpret_cast<__m256i>(v);
#endif
  const __m256i four = join(eight, _mm256_permute2x128_si256(eight, eight, 1));
  const __m256i two = join(four, _mm256_shuffle_epi32(four, 0x4E));
  return _mm256_extract_epi32(join(two, _mm256_shuffle_epi32(two, 0xB1)), 0);
#else
  int32_t best = v[0];
  for (int64_t i = 1; i < kLanes; ++i) best = join(best, v[i]);
  return best;
#endif
}
#if defined(__AVX2__)
inline int32_t sum(IntVec v) {
  return fold(v, [](__m256i a, __m256i b) { return _mm256_add_epi32(a, b); });
}
inline int32_t max_lane(IntVec v) {
  return fold(v, [](__m256i a, __m256i b) { return _mm256_max_epi32(a, b); });
}
#else
inline int32_t sum(IntVec v) {
  return fold(v, [](int32_t a, int32_t b) { return a + b; });
}
inline int32_t max_lane(IntVec v) {
  return fold(v, [](int32_t a, int32_t b) { return a > b ? a : b; });
}
#endif

/// Loads `count` < kLanes floats; the other lanes are `fill`. Memory beyond the floats is not touched.
inline Vec load_partial(const float* p, int64_t count, float fill = 0.0f) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(set1(fill), static_cast<__mmask16>((1u << count) - 1u), p);
#else
  float lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane[i] = i < count ? p[i] : fill;
  return load(lane);
#endif
}
inline void store_partial(float* p, Vec v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), v);
#else
  float lane[kLanes];
  store(lane, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lane[i];
#endif
}

/// x = k ln 2 + r with |r| <= ln 2 / 2 and k an integer, for |x| < 2^21.
struct ExpParts {
  Vec r;
  IntVec k;
};
inline ExpParts split_exponent(Vec x) {
  const Vec magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = fma(x, set1(1.44269504088896341f), magic);
  const Vec k = shifted - magic;
  return {fma(k, set1(2.12194440e-4f), fma(k, set1(-0.693359375f), x)), as_int(shifted) - 0x4B400000};
}
/// 2^k for -126 <= k <= 127; 0 for k = -127.
inline Vec power_of_two(IntVec k) { return as_float((k + 127) << 23); }
/// e^r - 1 for |r| <= ln 2 / 2 by its Taylor polynomial of degree 7: r + r^2 (1/2 + ...). Terms are added in pairs: a
/// single chain of multiply-adds would wait for each result.
inline Vec expm1_reduced(Vec r) {
  const Vec r2 = r * r;
  const Vec low = fma(set1(1.0f / 6), r, set1(0.5f)), middle = fma(set1(1.0f / 120), r, set1(1.0f / 24));
  const Vec high = fma(set1(1.0f / 5040), r, set1(1.0f / 720));
  return fma(fma(fma(high, r2, middle), r2, low), r2, r);
}

/// e^x to within 1.5 ulp over the whole range; 0 below -104, infinity above 88.73; NaN stays NaN. Scaling by 2^k is in
/// two halves so that subnormal results and the largest finite ones come out right.
inline Vec exp(Vec x) {
  const ExpParts parts = split_exponent(min(max(x, set1(-104.0f)), set1(89.0f)));
  const IntVec half = parts.k >> 1;
  const Vec result = (expm1_reduced(parts.r) + set1(1.0f)) * power_of_two(half) * power_of_two(parts.k - half);
  return x != x ? x : result;
}

/// e^x for x <= 0 to within 1.5 ulp, 0 from -87.7 down; NaN stays NaN. It takes half the work of exp.
inline Vec exp_decay(Vec x) {
  const ExpParts parts = split_exponent(max(set1(-88.0f), x));
  return (expm1_reduced(parts.r) + set1(1.0f)) * power_of_two(parts.k);
}

/// -|x|.
inline Vec negative_abs(Vec x) { return as_float(as_int(x) | static_cast<int32_t>(0x80000000u)); }

/// tanh x to within 4 ulp, signed zeros and NaN kept. With y = 2|x| it is (e^y - 1) / (e^y + 1), and
/// e^y - 1 = 2^k (e^r - 1) + (2^k - 1) has no cancellation: e^r - 1 is summed from r up.
inline Vec tanh(Vec x) {
  const Vec magnitude = max(x, -x);
  const ExpParts parts = split_exponent(min(magnitude + magnitude, set1(20.0f)));  // tanh 10 rounds to 1
  const Vec scale = power_of_two(parts.k);
  const Vec e = fma(scale, expm1_reduced(parts.r), scale - set1(1.0f));
  const Vec result = e / (e + set1(2.0f));
  const Vec with_sign = as_float(as_int(result) | (as_int(x) & static_cast<int32_t>(0x80000000u)));
  return x != x ? x : with_sign;
}

/// erf x to within 2e-7 of its value. Up to |x| = 1 the Taylor series, beyond it 1 - e^(-x^2) times a polynomial in
/// 1 / (1 + p |x|) (Abramowitz and Stegun, 7.1.26).
inline Vec erf(Vec x) {
  const Vec magnitude = max(x, -x);
  const Vec x2 = x * x;
  Vec near = set1(-1.0f / 6894720);  // (-1)^n / (n! (2n + 1)), n = 9
  near = fma(near, x2, set1(1.0f / 685440));
  near = fma(near, x2, set1(-1.0f / 75600));
  near = fma(near, x2, set1(1.0f / 9360));
  near = fma(near, x2, set1(-1.0f / 1320));
  near = fma(near, x2, set1(1.0f / 216));
  near = fma(near, x2, set1(-1.0f / 42));
  near = fma(near, x2, set1(0.1f));
  near = fma(near, x2, set1(-1.0f / 3));
  near = set1(1.12837916709551257f) * fma(near * x2, x, x);

  const Vec t = set1(1.0f) / fma(set1(0.3275911f), magnitude, set1(1.0f));
  Vec far = set1(1.061405429f);
  far = fma(far, t, set1(-1.453152027f));
  far = fma(far, t, set1(1.421413741f));
  far = fma(far, t, set1(-0.284496736f));
  far = fma(far, t, set1(0.254829592f));
  far = set1(1.0f) - far * t * exp(-x2);
  return magnitude < set1(1.0f) ? near : x < Vec{} ? -far : far;
}

/// log(1 + y) for y in [0, 1]: with s = y / (2 + y) <= 1/3 it is 2 artanh(s), a series whose terms shrink by 9.
inline Vec log1p_unit(Vec y) {
  const Vec s = y / (y + set1(2.0f));
  const Vec s2 = s * s, s4 = s2 * s2;
  const Vec low = fma(set1(1.0f / 5), s2, set1(1.0f / 3)), middle = fma(set1(1.0f / 9), s2, set1(1.0f / 7));
  const Vec high = fma(set1(1.0f / 15), s4, fma(set1(1.0f / 13), s2, set1(1.0f / 11)));
  const Vec half = fma(fma(fma(high, s4, middle), s4, low) * s2, s, s);
  return half + half;
}

}  // namespace carousel::cpu::CAROUSEL_ISA
