// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of the head with its loss.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/tokens/linear_cross_entropy.h"

namespace carousel::ops {

struct LinearCrossEntropyArgs {
  View hidden;  // [N, D]
  const Head* head;
  const int32_t* targets;    // [N], -1: skipped
  float* nll;                // [N]
  bool wants_hidden;         // whether d_hidden is to be written: on meta it has no data, and the workspace needs it
  View d_hidden;             // [N, D]
  float *d_weight, *d_bias;  // [V, D], [V]; null: not trained
  int64_t N, D, V;
  float scale;
  void* workspace = nullptr;

  bool has_gradient() const { return wants_hidden || d_weight != nullptr || d_bias != nullptr; }
};

/// The losses of some rows, whose logits become their gradients in place.
struct SoftmaxBackwardArgs {
  float* logits;           // [rows, V], capped
  const int32_t* targets;  // [rows]
  float* nll;              // [rows]
  int64_t rows, V;
  float scale, soft_cap;
};

}  // namespace carousel::ops

CPU_COMPOSITE_WITH_WORKSPACE(linear_cross_entropy, carousel::ops::LinearCrossEntropyArgs);
CPU_KERNEL(softmax_backward, carousel::ops::SoftmaxBackwardArgs);
