// SPDX-License-Identifier: Apache-2.0
// Packs x for products with weights in blocks: rounded to 8 bits in blocks of 32 along its row, each with its own
// scale. For *_cpu.cc files.
#pragma once

#include "carousel/core/dtype.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockValues);
constexpr int64_t kGroups = kBlock / 4;  // groups of four columns, the unit of a dot instruction

/// A block of R rows: codes s8 [8][R][4], scales f32 [R], and two words [R] each, which XSums chooses.
constexpr int64_t kRowBlockBytes = kBlock + 12;
/// Where they stand, times R.
constexpr int64_t kFirstSum = kBlock + 4, kSecondSum = kBlock + 8;

/// Which scale a block has. kPeak: the largest magnitude / 127. kPower: the smallest power of two not below that, as in
/// MXINT8 of the OCP's microscaling formats; multiplying sums by it leaves the multipliers of AVX-512 to the products.
/// kExponent: the base-2 logarithm of that power.
enum class XScale { kPeak, kPower, kExponent };

/// The scales of kLanes blocks, whose values become multiples of 1 / inverse.
struct BlockScales {
  Vec scale;    // NaN for a block that is not finite; 0, or any exponent, for one without a magnitude above 2^-100
  Vec inverse;  // 0 for a block without a magnitude above 2^-100
};

/// XSums says what the two words of a block hold.
///   kStarts  i32: -128 times the sum of its codes, and -8 times
///   kTimes   i32: `factor` times the sum of the codes
///   kScaled  f32: `factor` times the sum of the codes, times their scale
/// The last two are sums of the whole block, twice, or of its first and its second half.
struct XSums {
  enum Kind : uint8_t { kStarts, kTimes, kScaled } kind = kStarts;
  int32_t factor = 0;
  bool halves = false;
};

/// The scales from the largest magnitude of each block.
template <XScale kScale>
inline BlockScales block_scales(Vec peaks) {
  const IntVec scalable = peaks > set1(0x1p-100f);
  const Vec poison = peaks - peaks;
  if constexpr (kScale == XScale::kPeak) {
    return {(scalable ? peaks / set1(127.0f) : Vec{}) + poison, scalable ? set1(127.0f) / peaks : Vec{}};
  } else {
    constexpr int32_t kUp = 0x800000 - 0x7E0000 - 1;  // carries into the exponent what is above 127 / 64 times 2^n
    const IntVec known = scalable ? as_int(peaks) : IntVec{} + 0x3F800000;
    const IntVec bits = ((known + kUp) & 0x7F800000) - (6 << 23);
    const Vec exponent = __builtin_convertvector((bits >> 23) - 127, Vec), power = scalable ? as_float(bits) : Vec{};
    return {(kScale == XScale::kExponent ? exponent : power) + poison, scalable ? as_float((254 << 23) - bits) : Vec{}};
  }
}

/// kLanes values as multiples of 1 / inverse, rounded to the nearest integer from -127 to 127; a value that is not
/// finite gives any code from -128 on.
inline IntVec codes_of(Vec values, Vec inverse) {
  const IntVec shifted = as_int(values * inverse + set1(12582912.0f));  // 1.5 * 2^23: adding it rounds to an integer
  return (shifted << 24) >> 24;
}

/// Lane i: the lanes of v[i], joined.
template <class Join>
CAROUSEL_INLINE IntVec join_lanes(IntVec (&v)[kLanes], const Join& join) {
#pragma GCC unroll 4
  for (int64_t count = kLanes / 2; count > 0; count /= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < count; ++i) {
      v[i] = join(every_second<0>(v[2 * i], v[2 * i + 1]), every_second<1>(v[2 * i], v[2 * i + 1]));
    }
  }
  return v[0];
}

// How far ahead x is prefetched. Half of it takes half as long again where x is not in a near cache.
constexpr uintptr_t kRowPrefetch = 4096;

/// The largest magnitudes of `count` blocks, in the lanes of a vector; 0 in the other lanes.
CAROUSEL_INLINE Vec peaks_of(const float* x, int64_t count) {
  const auto* const ahead = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(x) + kRowPrefetch);
  IntVec magnitudes[kLanes];  // as integers they have the order of the values, NaN last
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    magnitudes[i] = IntVec{};
    if (i >= count) continue;
    for (int64_t j = 0; j < kBlock; j += 16) prefetch_near(ahead + (i * kBlock + j) * 4);
#pragma GCC unroll 8
    for (int64_t j = i * kBlock; j < (i + 1) * kBlock; j += kLanes) {
      magnitudes[i] = max(magnitudes[i], as_int(load(x + j)) & 0x7FFFFFFF);
    }
  }
  return as_float(join_lanes(magnitudes, [](IntVec a, IntVec b) { return max(a, b); }));
}

/// The two words of up to kLanes blocks, from the sums of their codes' halves.
template <XScale kScale, XSums kSums>
CAROUSEL_INLINE void block_sums(IntVec first, IntVec second, const BlockScales& scales, IntVec (&out)[2]) {
  if (!kSums.halves) first = second = first + second;
  if constexpr (kSums.kind == XSums::kStarts) {
    out[0] = first * -128;
    out[1] = first * -8;
  } else if constexpr (kSums.kind == XSums::kTimes) {
    out[0] = first * kSums.factor;
    out[1] = second * kSums.factor;
  } else {
    // A scale that is a power of two is exactly 1 / inverse; where the inverse is 0 so are all codes.
    const Vec power = scales.inverse > Vec{} ? set1(1.0f) / scales.inverse : Vec{};
    const Vec scale = (kScale == XScale::kExponent ? power : scales.scale) * set1(static_cast<float>(kSums.factor));
    out[0] = as_int(__builtin_convertvector(first, Vec) * scale);
    out[1] = as_int(__builtin_convertvector(second, Vec) * scale);
  }
}

/// Rounds a block to `codes`. The lanes of `first` add up to the sum of its codes; if kHalves, to that of its first
/// half, and those of `second` to that of the other.
template <bool kHalves>
CAROUSEL_INLINE void round_block(const float* x, Vec inverse, int8_t* codes, IntVec* first, IntVec* second) {
  *first = *second = IntVec{};
#if defined(__AVX2__) && !defined(__AVX512F__)
  __m256i wide[4];
#pragma GCC unroll 4
  for (int64_t i = 0; i < 4; ++i) wide[i] = reinterpret_cast<__m256i>(codes_of(load(x + i * kLanes), inverse));
  const __m256i low = _mm256_packs_epi32(wide[0], wide[1]), high = _mm256_packs_epi32(wide[2], wide[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing keeps to the halves of a register
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), bytes);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
  const auto sums = reinterpret_cast<IntVec>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  const IntVec in_first = {-1, -1, -1, -1, 0, 0, 0, 0};
  *first = kHalves ? sums & in_first : sums;
  if (kHalves) *second = sums & ~in_first;
#else
  typedef int8_t CodeVec __attribute__((vector_size(kLanes)));
#pragma GCC unroll 8
  for (int64_t j = 0; j < kBlock; j += kLanes) {
    const IntVec wide = codes_of(load(x + j), inverse);
    *(kHalves && j >= kBlock / 2 ? second : first) += wide;
    CodeVec narrow = __builtin_convertvector(wide, CodeVec);
#if defined(__AVX512F__)
    asm("" : "+v"(narrow));  // keeps it in a register: the instruction is slow when it writes to memory
#endif
    std::memcpy(codes + j, &narrow, sizeof narrow);
  }
#endif
}

/// Rounds `count` whole blocks that follow each other, up to kLanes of them, into blocks of `rows` rows.
///   out: where the first block goes, a multiple of 4 behind the start of the block of rows that it joins. The next
///   block goes `step` bytes further
template <XScale kScale, XSums kSums = XSums()>
void round_blocks(const float* x, int64_t count, int64_t rows, char* out, int64_t step) {
  const BlockScales scales = block_scales<kScale>(peaks_of(x, count));
  float inverse[kLanes];
  store(inverse, scales.inverse);
  alignas(64) int8_t codes[kLanes][kBlock];
  IntVec totals[kLanes], second[kLanes];  // `second` has those of the second halves, where they are asked for
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    totals[i] = second[i] = IntVec{};
    if (i >= count) continue;
    round_block<kSums.halves>(x + i * kBlock, set1(inverse[i]), codes[i], &totals[i], &second[i]);
  }
  const auto add = [](IntVec a, IntVec b) { return a + b; };
  IntVec sums[2];
  block_sums<kScale, kSums>(join_lanes(totals, add), kSums.halves ? join_lanes(second, add) : IntVec{}, scales, sums);
  float scale[kLanes];
  store(scale, scales.scale);
  for (int64_t i = 0; i < count; ++i, out += step) {
#pragma GCC unroll 8
    for (int64_t g = 0; g < kGroups; ++g) std::memcpy(out + g * rows * 4, codes[i] + g * 4, 4);
    std::memcpy(out + rows * kBlock, &scale[i], 4);
    std::memcpy(out + rows * kFirstSum, reinterpret_cast<const char*>(&sums[0]) + i * 4, 4);
    std::memcpy(out + rows * kSecondSum, reinterpret_cast<const char*>(&sums[1]) + i * 4, 4);
  }
}

/// Rounds `count` values of one row as row r of `rows`; zeros fill the last block.
template <XScale kScale, XSums kSums = XSums()>
void round_row(const float* x, int64_t count, int64_t r, int64_t rows, char* out) {
  const int64_t blocks = count / kBlock, rest = count % kBlock, step = rows * kRowBlockBytes;
  out += r * 4;
  for (int64_t b = 0; b < blocks; b += kLanes) {
    const int64_t some = blocks - b < kLanes ? blocks - b : kLanes;
    round_blocks<kScale, kSums>(x + b * kBlock, some, rows, out + b * step, step);
  }
  if (rest == 0) return;
  float values[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) values[i] = i < rest ? x[blocks * kBlock + i] : 0.0f;
  round_blocks<kScale, kSums>(values, 1, rows, out + blocks * step, step);
}

/// Rounds `count` values of each of `rows` rows, up to kLanes rows, that lie `stride` apart.
template <XScale kScale, XSums kSums = XSums()>
void round_rows(const float* x, int64_t stride, int64_t rows, int64_t count, char* out) {
  if (count == kBlock && stride == kBlock) return round_blocks<kScale, kSums>(x, rows, rows, out, 4);
  for (int64_t r = 0; r < rows; ++r) round_row<kScale, kSums>(x + r * stride, count, r, rows, out);
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
