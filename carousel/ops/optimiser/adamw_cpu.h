// SPDX-License-Identifier: Apache-2.0
// The arguments of the optimiser's kernels.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/optimiser/adamw.h"

namespace carousel::ops {

struct AdamWArgs {
  float* w;
  const float* g;
  float *m, *v;
  int64_t count;
  float keep;     // 1 - lr decay
  float lr_m;     // lr / (1 - beta1^step)
  float v_scale;  // 1 / sqrt(1 - beta2^step)
  float beta1, beta2, eps, grad_scale;
};

struct SumOfSquaresArgs {
  const float* x;
  int64_t count;
  double* blocks;  // [ceil(count / kNormBlock)]
};
constexpr int64_t kNormBlock = 65536;

}  // namespace carousel::ops

CPU_KERNEL(adamw, ops::AdamWArgs);
CPU_KERNEL(sum_of_squares, ops::SumOfSquaresArgs);
