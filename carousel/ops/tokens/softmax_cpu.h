// SPDX-License-Identifier: Apache-2.0
// The two reductions of a row of logits: its maximum, and the sum of the exponentials below it.
#pragma once

#include <cstring>

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

typedef double WideVec __attribute__((vector_size(sizeof(double) * static_cast<size_t>(kLanes))));

inline float row_max(const float* x, int64_t count) {
  Vec best = set1(x[0]);
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) best = max(best, load(x + j));
  if (j < count) best = max(best, load_partial(x + j, count - j, x[0]));
  return max_lane(best);
}

inline double exp_sum(const float* x, int64_t count, float shift) {
  const Vec s = set1(shift);
  WideVec total = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) total += __builtin_convertvector(exp(load(x + j) - s), WideVec);
  if (j < count) {
    total += __builtin_convertvector(exp(load_partial(x + j, count - j, -INFINITY) - s), WideVec);
  }
  double lanes[kLanes];
  std::memcpy(lanes, &total, sizeof total);
  double out = 0;
  for (int64_t i = 0; i < kLanes; ++i) out += lanes[i];
  return out;
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
