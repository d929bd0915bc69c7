// SPDX-License-Identifier: Apache-2.0
// Matrices of low rank that are trained beside frozen ones: LoRA (Hu et al., arXiv:2106.09685).
#pragma once

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"

namespace carousel::ops {

/// scale B A, as large as the matrix it is added to. Parts of a matrix are rows of B.
struct LowRank {
  Tensor a;  // [R, K] f32
  Tensor b;  // [M, R] f32
  float scale = 1;
};

/// w += scale B A: an element is one chain over R that goes on from what w holds. Throws kShape.
///   w [M, K] f32
void add_low_rank(const Stream& stream, const LowRank& low, const Tensor& w);
/// From the gradient of w: d_a += scale B^T d_w, d_b += scale d_w A^T. Throws kShape.
///   d_w [M, K]; d [R, K] and [M, R], f32
void low_rank_backward(const Stream& stream, const LowRank& low, const Tensor& d_w, const Tensor& d_a,
                       const Tensor& d_b);

}  // namespace carousel::ops
