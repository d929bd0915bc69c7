// SPDX-License-Identifier: Apache-2.0
// Loops that do one thing each: read, scale, multiply and add. Measured variants that lost: one piece per thread (15%
// less on a machine with other guests), no prefetch (3% less), 2 to 8 address streams per thread (half).
#include "carousel/cpu/bounds_kernels.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

// Latency 4 times 2 units needs 8 chains; bf16 dot products of latency 6 and more need 16 to reach their peak.
#if defined(__AVX512F__) || defined(CAROUSEL_NEON)
constexpr int kFewChains = 12, kManyChains = 20;  // of 32 registers
#else
constexpr int kFewChains = 8, kManyChains = 12;  // of 16 registers
#endif
constexpr int kStreamVecs = 8;
constexpr int64_t kPrefetchBytes = 2048;
constexpr int64_t kCachePiece = 16384;  // floats read in one direction

void prefetch(const float* p) { prefetch_near(reinterpret_cast<const char*>(p) + kPrefetchBytes); }

template <bool kPrefetches>
float read_piece(const float* x, int64_t count) {
  Vec sums[kStreamVecs] = {};
  for (int64_t i = 0; i < count; i += kStreamVecs * kLanes) {
#pragma GCC unroll 8
    for (int v = 0; v < kStreamVecs; ++v) {
      if (kPrefetches && v * kLanes % 16 == 0) prefetch(x + i + v * kLanes);
      sums[v] += load(x + i + v * kLanes);
    }
  }
  for (int v = 1; v < kStreamVecs; ++v) sums[0] += sums[v];
  return sum(sums[0]);
}

template <bool kPrefetches>
float scale_piece(float* x, int64_t count) {
  const Vec c = set1(0.9999f);
  for (int64_t i = 0; i < count; i += kStreamVecs * kLanes) {
#pragma GCC unroll 8
    for (int v = 0; v < kStreamVecs; ++v) {
      if (kPrefetches && v * kLanes % 16 == 0) prefetch(x + i + v * kLanes);
      store(x + i + v * kLanes, load(x + i + v * kLanes) * c);
    }
  }
  return x[0];
}

/// Reads x in pieces, forth and back or round and round. A level that cannot hold all of x keeps more of it forth and
/// back: round and round was 25% slower at the size of the second level. There is no prefetch: in the caches it would
/// only take the slot of a load.
template <bool kTurns>
float read_again(const float* x, int64_t count, int64_t passes) {
  Vec sums[kStreamVecs] = {};
  const int64_t pieces = (count + kCachePiece - 1) / kCachePiece;
  for (int64_t pass = 0; pass < passes; ++pass) {
    for (int64_t n = 0; n < pieces; ++n) {
      const int64_t begin = (!kTurns || pass % 2 == 0 ? n : pieces - 1 - n) * kCachePiece;
      const int64_t end = count - begin < kCachePiece ? count : begin + kCachePiece;
      for (int64_t i = begin; i < end; i += kStreamVecs * kLanes) {
#pragma GCC unroll 8
        for (int v = 0; v < kStreamVecs; ++v) sums[v] += load(x + i + v * kLanes);
      }
    }
    __asm__ volatile("" ::: "memory");
  }
  for (int v = 1; v < kStreamVecs; ++v) sums[0] += sums[v];
  return sum(sums[0]);
}

/// Chains from different values, or the compiler would see one chain many times and run it once.
template <int kChains>
void start_chains(Vec (&y)[kChains], float scale) {
#pragma GCC unroll 32
  for (int j = 0; j < kChains; ++j) y[j] = set1(scale * static_cast<float>(j));
}

/// Takes so many steps of every chain, and returns the sum of where they end.
template <int kChains, class V, class Step>
CAROUSEL_INLINE V run_chains(V (&y)[kChains], int64_t iterations, const Step& step) {
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (int j = 0; j < kChains; ++j) y[j] = step(y[j]);
  }
#pragma GCC unroll 32
  for (int j = 1; j < kChains; ++j) y[0] += y[j];  // unrolled too, or all chains would stand in memory
  return y[0];
}

/// Chains of y = y * m + c.
template <int kChains>
float f32_chains(int64_t iterations, float m, float c) {
  const Vec m_v = set1(m), c_v = set1(c);
  Vec y[kChains];
  start_chains(y, c);
  return sum(run_chains(y, iterations, [&](Vec v) CAROUSEL_INLINE_LAMBDA { return fma(v, m_v, c_v); }));
}

#if defined(__AVX512BF16__)
template <int kChains>
float bf16_chains(int64_t iterations, float value) {
  const __m512bh b = reinterpret_cast<__m512bh>(set1(value));
  Vec y[kChains];
  start_chains(y, value);
  return sum(run_chains(y, iterations, [&](Vec v) CAROUSEL_INLINE_LAMBDA { return Vec(_mm512_dpbf16_ps(v, b, b)); }));
}
#endif

int64_t chains(const BoundsCompute& a) { return a.loop == 0 ? kFewChains : kManyChains; }

}  // namespace

void bounds_read(const Stream& stream, const BoundsMemory& a) {
  const auto read = a.loop == 0 ? read_piece<true> : read_piece<false>;
  const int64_t piece = a.count / a.tasks;
  parallel_for(*stream.pool, a.tasks, [&](int64_t i) { a.results[i] = read(a.x + i * piece, piece); });
}

void bounds_scale(const Stream& stream, const BoundsMemory& a) {
  const auto scale = a.loop == 0 ? scale_piece<true> : scale_piece<false>;
  const int64_t piece = a.count / a.tasks;
  parallel_for(*stream.pool, a.tasks, [&](int64_t i) { a.results[i] = scale(a.x + i * piece, piece); });
}

void bounds_cache(const Stream& stream, const BoundsCache& a) {
  const auto read = a.loop == 0 ? read_again<true> : read_again<false>;
  parallel_for(*stream.pool, a.tasks, [&](int64_t i) { a.results[i] = read(a.x + i * a.count, a.count, a.passes); });
}

void bounds_f32(const Stream& stream, const BoundsCompute& a) {
  *a.n_flops = a.iterations * chains(a) * kLanes * 2;
  const auto run = a.loop == 0 ? f32_chains<kFewChains> : f32_chains<kManyChains>;
  parallel_for(*stream.pool, a.tasks, [&](int64_t i) { a.results[i] = run(a.iterations, 0.999f, 0.001f); });
}

#if defined(__AVX512BF16__)
void bounds_bf16(const Stream& stream, const BoundsCompute& a) {
  *a.n_flops = a.iterations * chains(a) * kLanes * 4;
  const auto run = a.loop == 0 ? bf16_chains<kFewChains> : bf16_chains<kManyChains>;
  parallel_for(*stream.pool, a.tasks, [&](int64_t i) { a.results[i] = run(a.iterations, static_cast<float>(i + 1)); });
}
#else
void bounds_bf16(const Stream&, const BoundsCompute& a) { *a.n_flops = 0; }
#endif

// Dot products of bytes, as each set can: vpdpbusd (AVX-512 VNNI); vpmaddubsw and an add of 16 bits (AVX2), which small
// weights need most of the time; sdot (NEON with dot products), smull and sadalp (without); products of bytes already
// widened to 32 bits (portable). Two operations per product.
namespace {

IntVec dot_bytes(IntVec sum, IntVec a, [[maybe_unused]] IntVec b) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<IntVec>(
      _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  // Every chain has the same product, which the compiler would otherwise compute once. One of the sums would wait for
  // them.
  __m256i pairs;
  asm volatile("vpmaddubsw %1, %1, %0" : "=x"(pairs) : "x"(a));
  return reinterpret_cast<IntVec>(_mm256_add_epi16(reinterpret_cast<__m256i>(sum), pairs));
#elif defined(__ARM_FEATURE_DOTPROD)
  return (IntVec)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b);
#elif defined(CAROUSEL_NEON)
  const auto x = (int8x16_t)a, y = (int8x16_t)b;
  const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y)), high = vmull_high_s8(x, y);
  return (IntVec)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
#else
  return sum + a * b;
#endif
}
#if defined(__AVX2__) || defined(CAROUSEL_NEON)
constexpr int64_t kBytesPerLane = 4;
#else
constexpr int64_t kBytesPerLane = 1;
#endif

template <int kChains>
float int8_chains(int64_t iterations, int32_t value) {
  const IntVec x = IntVec{} + value;
  IntVec y[kChains];
#pragma GCC unroll 32
  for (int j = 0; j < kChains; ++j) y[j] = IntVec{} + j;
  const auto step = [&](IntVec v) CAROUSEL_INLINE_LAMBDA { return dot_bytes(v, x, v); };
  return static_cast<float>(run_chains(y, iterations, step)[0]);
}

}  // namespace

void bounds_int8(const Stream& stream, const BoundsCompute& a) {
  *a.n_flops = a.iterations * chains(a) * kLanes * kBytesPerLane * 2;
  const auto run = a.loop == 0 ? int8_chains<kFewChains> : int8_chains<kManyChains>;
  parallel_for(*stream.pool, a.tasks,
               [&](int64_t i) { a.results[i] = run(a.iterations, static_cast<int32_t>(0x01020304 + i)); });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
