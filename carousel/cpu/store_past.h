// SPDX-License-Identifier: Apache-2.0
// Stores that pass the caches by. An ordinary store first reads the line it changes; where the result is larger than
// the caches, that reading is a third of the traffic for nothing.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// Results of so many bytes are stored past the caches: smaller ones are soon read from there.
constexpr int64_t kPastBytes = int64_t{4} << 20;

/// Whether `rows` rows of `width` floats at p, `stride` apart, are to be stored past the caches: they are large, and
/// their whole vectors lie at multiples of a vector's size.
inline bool stores_past(const float* p, int64_t stride, int64_t rows, int64_t width) {
  constexpr auto kVecBytes = static_cast<intptr_t>(sizeof(Vec));
  return rows * width * static_cast<int64_t>(sizeof(float)) >= kPastBytes && stride % kLanes == 0 &&
         reinterpret_cast<intptr_t>(p) % kVecBytes == 0;
}

/// Stores at p, a multiple of a vector's size. Sets that have no such store use an ordinary one.
inline void store_past(float* p, Vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, v);
#else
  store(p, v);
#endif
}

/// Ends a run of such stores: a thread that synchronises with this one afterwards sees them.
inline void end_stores_past() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

}  // namespace carousel::cpu::CAROUSEL_ISA
