// SPDX-License-Identifier: Apache-2.0
// The quantile error, also called pinball loss, of a forecaster.
#pragma once

#include <span>

#include "carousel/ops/ctx.h"

namespace carousel {
class Grads;
}

namespace carousel::ops {

/// The sum over a row's targets of the mean over levels q of max(q d, (q - 1) d), d = target - forecast. A target that
/// is NaN is missing, and counts 0.
///   y [N, Q * P] f32, level after level; wanted [N, P] f32; levels [Q], between 0 and 1; returns [N] f32
/// With `grads` it is the end of a tape: y gets the gradient of scale * (the sum of the losses); where a forecast is
/// its target the gradient is 0. Throws kShape.
Tensor quantile_error(Ctx& ctx, const Tensor& y, const Tensor& wanted, std::span<const double> levels,
                      Grads* grads = nullptr, float scale = 1);

}  // namespace carousel::ops
