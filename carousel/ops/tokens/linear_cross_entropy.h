// SPDX-License-Identifier: Apache-2.0
// The head of a language model and its loss as one op: logits are formed for some rows at a time and never kept.
#pragma once

#include "carousel/ops/ctx.h"
#include "carousel/ops/tokens/ids.h"
#include "carousel/ops/weight/weight.h"

namespace carousel {
class Grads;
}

namespace carousel::ops {

struct Head {
  const Weight& weight;  // [V, D], and its bias
  float soft_cap = 0;    // 0: none
};

/// -log softmax(cap(hidden W^T + b))[target] per row, with cap(x) = soft_cap * tanh(x / soft_cap), or x where it is 0.
///   hidden [N, D] f32; rows whose target is -1 are skipped, and have loss 0
///   returns [N] f32 (sums of exponentials in f64)
/// With `grads` it is the end of a tape: the gradient of scale * (the sum of the losses) is given to `hidden` and added
/// to that of the head, whose every element is one chain over the rows. Throws kShape, kUsage. N may be 0.
Tensor linear_cross_entropy(Ctx& ctx, const Tensor& hidden, const Head& head, const Targets& targets,
                            Grads* grads = nullptr, float scale = 1);

}  // namespace carousel::ops
