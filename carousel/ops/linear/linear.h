// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b for one or several weights that read the same x.
#pragma once

#include <initializer_list>
#include <span>

#include "carousel/ops/ctx.h"
#include "carousel/ops/weight/weight.h"

namespace carousel {
class Grads;
}

namespace carousel::ops {

/// Projections of x.
///   x [N, K] f32; each weight [M_i, K] in any form but DenseRows. The chain of a sparse one runs over its live
///   weights; mapped rows are packed into panels piece by piece, with the same bits. returns [N, M_0 + M_1 + ...] f32,
///   the outputs side by side
/// Each output element is one chain of fused multiply-adds over k = 0, 1, ..., K-1 in f32, whatever N is, the bias
/// added last: a row's result does not depend on the other rows, bit for bit. With a q8 or q4 weight the chain is over
/// blocks of 32 columns: x is rounded to 8 bits with a scale per row and block (of q4 a power of two), the products of
/// a block are summed as integers, exactly, and one multiply-add takes them in. Where the stream computes in bf16, x is
/// rounded to bf16 before a bf16 weight, and the chain is over pairs of columns. Throws kShape. N may be 0.
Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights);
/// Throws Error(kShape) unless weight `index` of the op `where` is [*, K] in a form that products take.
void check_weight(const char* where, size_t index, const Weight* weight, int64_t K);

/// d_x [N, K] = d_y W, summed over weights whose outputs lie side by side in d_y; d_y is rounded to bf16 before a
/// weight in bf16. Throws kUsage for a weight without its transpose.
void linear_dx(Ctx& ctx, const Columns& d_y, std::span<const Weight* const> weights, const Columns& d_x);

}  // namespace carousel::ops
