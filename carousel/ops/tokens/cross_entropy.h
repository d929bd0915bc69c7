// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood of target tokens.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// -log softmax(logits)[target], per row.
///   logits [N, V] f32, targets [N] i32 in [0, V); returns [N] f32 (the sum of exponentials is taken in f64)
/// Throws kShape, kInput (a target out of range). N may be 0.
Tensor cross_entropy(Ctx& ctx, const Tensor& logits, const Tensor& targets);

struct CrossEntropyArgs {
  const float* logits;     // [N, V]
  const int32_t* targets;  // [N], each in [0, V)
  float* nll;              // [N]
  int64_t rows, vocab;     // N, V
};

}  // namespace carousel::ops

KERNEL(cross_entropy, ops::CrossEntropyArgs);
