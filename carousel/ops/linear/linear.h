// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b for one or several weights that read the same x.
#pragma once

#include <initializer_list>

#include "carousel/ops/ctx.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

/// Projections of x.
///   x [N, K] f32; each weight [M_i, K] in kPanels layout, or sparse: then the chain runs over its live weights; or
///   over memory of others, packed into panels piece by piece, with the same bits
///   returns [N, M_0 + M_1 + ...] f32, the outputs side by side
/// Each output element is one chain of fused multiply-adds over k = 0, 1, ..., K-1 in f32, whatever N is, the bias
/// added last: a row's result does not depend on the other rows, bit for bit. With a q8 or q4 weight the chain is over
/// blocks of 32 columns: x is rounded to 8 bits with a scale per row and block (of q4 a power of two), the products of
/// a block are summed as integers, exactly, and one multiply-add takes them in. Where the stream computes in bf16, x is
/// rounded to bf16 before a bf16 weight, and the chain is over pairs of columns. Throws kShape. N may be 0.
Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights);
/// The same into y [N, M_0 + M_1 + ...], for callers whose N depends on values and must not decide what is allocated.
///   packed: scratch of at least packed_count(N, K) f32
void linear_into(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights, const Tensor& y,
                 const Tensor& packed);

int64_t packed_count(int64_t N, int64_t K);

/// A feed-forward network: down(activation(gate(x)) * up(x)).
///   x [N, D] f32; gate, up [F, D], down [M, F], as those of linear
///   returns [N, M] f32
/// The bits are those of linear, gated_unit and linear. Of many rows the units are computed where the sums of gate and
/// up are complete, and go to memory once, as the product with down reads them (weights of blocks: rounded to 8 bits).
/// Throws kShape. N may be 0.
Tensor feed_forward(Ctx& ctx, const Tensor& x, const Weight& gate, const Weight& up, const Weight& down,
                    Activation activation);

}  // namespace carousel::ops
