// SPDX-License-Identifier: Apache-2.0
// One head of one row before its products: its norm, the angles of its rotation. Attention and its gradient share this.
#pragma once

#include "carousel/cpu/vec_math.h"
#include "carousel/ops/attention/attention_cpu.h"
#include "carousel/ops/attention/rotary.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

inline float square_sum(const float* x, int64_t count) {
  Vec acc = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) acc = fma(load(x + j), load(x + j), acc);
  if (j < count) {
    const Vec v = load_partial(x + j, count - j);
    acc = fma(v, v, acc);
  }
  return sum(acc);
}

/// One over the root of the mean square of a head [d].
inline float norm_scale(const ops::AttentionArgs& args, const float* x) {
  return 1.0f / std::sqrt(square_sum(x, args.head_dim) / static_cast<float>(args.head_dim) + args.norm_eps);
}

/// The cosines of a position's angles [R/2], then their sines [R/2].
inline void write_angles(const ops::AttentionArgs& args, int64_t pos, float* cos_sin) {
  for (int64_t j = 0; j < args.rotary / 2; ++j) {
    const double angle = ops::rotary_angle(pos, args.inv_freq[j]);
    cos_sin[j] = static_cast<float>(std::cos(angle));
    cos_sin[args.rotary / 2 + j] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
