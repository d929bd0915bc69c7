// SPDX-License-Identifier: Apache-2.0
// The arguments of the gradient of the norms.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/norm/norm_cpu.h"

namespace carousel::ops {

/// The gradient of either norm: out = (norm(x) + skip_weight * skip) * gate(pre). A norm of whole rows has 1 head, no
/// skip and no gate.
struct NormBackwardArgs {
  View x;                    // [N, H*Dv]
  View pre;                  // [N, H*Dv] columns, or null
  View skip;                 // [N, H*Dv] columns, or null
  const float* skip_weight;  // [H*Dv]
  NormGate::Kind gate;
  NormArgs norm;         // weight and bias have width H*Dv
  View d;                // [N, H*Dv] gradient of out
  View d_more;           // [N, H*Dv] what is added to d_x, or null
  View d_x;              // [N, H*Dv] written; null: not wanted
  View d_pre;            // [N, H*Dv] written; null: not wanted
  View d_skip;           // [N, H*Dv] written; null: not wanted
  float* d_weight;       // [H*Dv] added to; null: not wanted
  float* d_bias;         // [H*Dv] added to; null: not wanted
  float* d_skip_weight;  // [H*Dv] added to; null: not wanted
  int64_t rows, heads, dv;
  void* workspace = nullptr;

  bool parameters() const { return d_weight != nullptr || d_bias != nullptr || d_skip_weight != nullptr; }
};

}  // namespace carousel::ops

CPU_KERNEL_WITH_WORKSPACE(norm_backward, ops::NormBackwardArgs);
