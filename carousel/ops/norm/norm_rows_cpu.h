// SPDX-License-Identifier: Apache-2.0
// The moments of one row, which the norms and their gradients share: summed in one fixed order, so a row never depends
// on the others.
#pragma once

#include "carousel/cpu/vec.h"
#include "carousel/ops/norm/norm_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

/// Sum over a row of its values less `shift`, or of their squares. read(j, count) gives the values from j on, and
/// `shift` in lanes beyond `count`. Four accumulators hide the latency of the additions.
template <bool kSquares, class Read>
CAROUSEL_INLINE float moment_of(const Read& read, int64_t width, float shift) {
  const Vec s = set1(shift);
  Vec acc[4] = {Vec{}, Vec{}, Vec{}, Vec{}};
  int64_t j = 0;
  for (; j + 4 * kLanes <= width; j += 4 * kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec v = read(j + i * kLanes, kLanes) - s;
      acc[i] = kSquares ? fma(v, v, acc[i]) : acc[i] + v;
    }
  }
  for (; j < width; j += kLanes) {
    const Vec v = read(j, width - j) - s;
    acc[0] = kSquares ? fma(v, v, acc[0]) : acc[0] + v;
  }
  return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}
template <bool kSquares>
inline float moment(const float* x, int64_t width, float shift) {
  const auto read = [&](int64_t j, int64_t count) CAROUSEL_INLINE_LAMBDA {
    return count >= kLanes ? load(x + j) : load_partial(x + j, count, shift);
  };
  return moment_of<kSquares>(read, width, shift);
}

using ops::Affine;

inline Affine row_statistics(const float* x, int64_t width, const ops::NormArgs& norm) {
  const auto count = static_cast<float>(width);
  if (norm.kind == ops::Norm::Kind::kNone) return {0.0f, 1.0f};
  const float mean = norm.kind == ops::Norm::Kind::kLayer ? moment<false>(x, width, 0.0f) / count : 0.0f;
  // Computed from the deviations: E[x^2] - E[x]^2 cancels where the mean is large against the spread.
  const float variance = moment<true>(x, width, mean) / count;
  return {mean, ops::norm_scale(variance, norm.eps)};
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
