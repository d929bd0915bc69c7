// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood of target tokens.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// -log softmax(logits)[target], per row.
///   logits [N, V] f32, targets [N] i32 in [0, V); returns [N] f32 (the sum of exponentials is taken in f64)
/// Throws kShape, kInput (a target out of range). N may be 0.
Tensor cross_entropy(Ctx& ctx, const Tensor& logits, const Tensor& targets);

}  // namespace carousel::ops
