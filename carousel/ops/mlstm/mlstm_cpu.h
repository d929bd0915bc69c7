// SPDX-License-Identifier: Apache-2.0
// What both forms of the mLSTM cell share: a head, its gates and its denominator.
#pragma once

#include "carousel/cpu/vec.h"
#include "carousel/ops/mlstm/mlstm.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kL = ops::kMlstmChunk;

struct Head {
  const ops::MlstmArgs* args;
  int64_t h;
  int64_t first_column, width;  // block of value columns
  float* c;                     // [Dk, Dv] of this head, at first_column
  float* n;                     // [Dk]
  float m;
  float* scratch;
};

/// Soft-caps both gates of `count` places and replaces those of f by log sigmoid(f), in whole vectors: the arrays have
/// room for them.
inline void activate_gates(float* i, float* f, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += kLanes) {
    Vec i_j = load(i + j), f_j = load(f + j);
    if (cap > 0) {
      i_j = set1(cap) * tanh(i_j / set1(cap));
      f_j = set1(cap) * tanh(f_j / set1(cap));
    }
    store(i + j, i_j);
    store(f + j, log_sigmoid(f_j));
  }
}

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

inline float dot(const float* a, const float* b, int64_t count) {
  Vec acc = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) acc = fma(load(a + j), load(b + j), acc);
  if (j < count) acc = fma(load_partial(a + j, count - j), load_partial(b + j, count - j), acc);
  return sum(acc);
}

inline float denominator(float q_dot_n, float m, const ops::MlstmArgs& args) {
  const float floor = std::exp(-m);                              // +inf for m < -88: h is then 0
  const float magnitude = std::fabs(q_dot_n) + args.eps_in_max;  // adding zero changes no bit
  return (magnitude > floor ? magnitude : floor) + args.eps_outside;
}

struct Scales {
  float q, k;  // one is Dk^-1/2, the other 1, which changes no bit
};
inline Scales scales(const ops::MlstmDims& dims) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(dims.dk));
  return dims.scale_keys ? Scales{1.0f, scale} : Scales{scale, 1.0f};
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
