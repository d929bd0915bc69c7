// SPDX-License-Identifier: Apache-2.0
// Feed-forward networks with gated units, as one op.
#pragma once

#include "carousel/ops/ctx.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

/// A feed-forward network: down(activation(gate(x)) * up(x)).
///   x [N, D] f32; gate, up [F, D], down [M, F], as those of linear
///   returns [N, M] f32
/// The bits are those of linear, gated_unit and linear. Of many rows the units are computed where the sums of gate and
/// up are complete, and go to memory once, as the product with down reads them (weights of blocks: rounded to 8 bits).
/// Throws kShape. N may be 0.
Tensor feed_forward(Ctx& ctx, const Tensor& x, const Weight& gate, const Weight& up, const Weight& down,
                    Activation activation);

}  // namespace carousel::ops
