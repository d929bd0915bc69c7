// SPDX-License-Identifier: Apache-2.0
// The squared error of a model from features to features.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel {
class Grads;
}

namespace carousel::ops {

/// The sum over a row of (y - wanted)^2.
///   y, wanted [N, O] f32; returns [N] f32
/// With `grads` it is the end of a tape: y gets the gradient of scale * (the sum of the losses). Throws kShape.
Tensor squared_error(Ctx& ctx, const Tensor& y, const Tensor& wanted, Grads* grads = nullptr, float scale = 1);

}  // namespace carousel::ops
