// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, arXiv:1711.05101) over ranges of flat arrays, and the norm that gradients are clipped
// by.
#pragma once

#include <cstdint>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"

namespace carousel::ops {

struct AdamW {
  float lr = 1e-3f;
  float beta1 = 0.9f, beta2 = 0.95f;
  float eps = 1e-8f;
  float decay = 0.1f;    // decoupled: w becomes w (1 - lr decay) first
  int64_t step = 1;      // counts from 1, for the correction of both moments' bias
  float grad_scale = 1;  // gradients are multiplied by this: clipping
};

/// One step over elements first to first + count of flat f32 arrays, each element by itself:
///   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   w = w (1 - lr decay) - lr / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step)) + eps)
struct AdamWArrays {
  const Tensor &masters, &gradients, &m, &v;
  int64_t first, count;
};
void adamw(const Stream& stream, const AdamW& options, const AdamWArrays& arrays);

/// The sum of squares in f64: blocks of 65,536 elements, joined in order, whatever the threads.
double sum_of_squares(const Stream& stream, const Tensor& values);

}  // namespace carousel::ops
