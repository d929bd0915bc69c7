// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood of target tokens.
#pragma once

#include "carousel/ops/ctx.h"
#include "carousel/ops/tokens/ids.h"

namespace carousel::ops {

/// -log softmax(logits)[target], per row.
///   logits [N, V] f32, targets [N] below V; returns [N] f32 (the sum of exponentials is taken in f64)
/// Throws kShape, also where the targets were checked against more than V. N may be 0.
Tensor cross_entropy(Ctx& ctx, const Tensor& logits, const Ids& targets);

}  // namespace carousel::ops
