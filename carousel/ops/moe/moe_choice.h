// SPDX-License-Identifier: Apache-2.0
// How a row chooses its experts, and what they weigh.
#pragma once

#include <cstdint>

#include "carousel/core/host_device.h"

namespace carousel::ops {

constexpr float kMoeSumFloor = 1e-6f;  // is added to the sum of scores that weights are divided by

/// The place of a score in the order of choice.
HOST_DEVICE float moe_key(const float* scores, const float* bias, int64_t e) {
  return bias == nullptr ? scores[e] : scores[e] + bias[e];
}

/// The k indices of the largest score + bias (null: none), the lower one where two are equal, in ascending order. NaN
/// still gives k distinct indices.
HOST_DEVICE void choose_experts(const float* scores, const float* bias, int64_t count, int64_t k, int32_t* chosen) {
  for (int64_t e = 0; e < count; ++e) {
    int64_t place = e < k ? e : k;
    while (place > 0 && moe_key(scores, bias, e) > moe_key(scores, bias, chosen[place - 1])) {
      if (place < k) chosen[place] = chosen[place - 1];
      --place;
    }
    if (place < k) chosen[place] = static_cast<int32_t>(e);
  }
  for (int64_t i = 1; i < k; ++i) {
    const int32_t value = chosen[i];
    int64_t place = i;
    for (; place > 0 && chosen[place - 1] > value; --place) chosen[place] = chosen[place - 1];
    chosen[place] = value;
  }
}

/// The weights [k] of the chosen experts: their scores, of their sum if `normalise`, times `scale`.
HOST_DEVICE void weigh_experts(const float* scores, const int32_t* chosen, int64_t k, bool normalise, float scale,
                               float* weights) {
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += scores[chosen[i]];
  for (int64_t i = 0; i < k; ++i) {
    const float weight = normalise ? scores[chosen[i]] / (sum + kMoeSumFloor) : scores[chosen[i]];
    weights[i] = weight * scale;
  }
}

}  // namespace carousel::ops
