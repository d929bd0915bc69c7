// SPDX-License-Identifier: Apache-2.0
// The arguments of the gradients of a mixture of experts.
#pragma once

#include "carousel/ops/moe/moe_cpu.h"

namespace carousel::ops {

struct MoeRouteBackwardArgs {
  View logits;             // [N, E]
  const int32_t* experts;  // [N, k] chosen
  View d;                  // [N, k] gradient of the weights
  View d_logits;           // [N, E] written
  int64_t rows, count, top_k;
  bool normalise;
  float scale;
};

/// Where the gradients of one expert's weights and biases are added; null: not trained.
struct MoeExpertGradients {
  float *gate, *up, *down;                 // [F, D], [F, D], [D, F]
  float *gate_bias, *up_bias, *down_bias;  // [F], [F], [D]
};

struct MoeExpertsBackwardArgs {
  MoeExpertsArgs forward;               // with gate_up as it was kept; y and workspace are null
  const MoeExpertGradients* gradients;  // [count]
  View d_y;                             // [N, D]
  View d_x;                             // [N, D] written; null: not wanted
  View d_weights;                       // [N, k] written; null: not wanted
  void* workspace = nullptr;
};

/// Rows of one expert, whose gradients so far lack the factor that the router gave them.
struct MoeWeighArgs {
  View d_y;              // [count, D] gradients of the sums; times the weight afterwards
  View d_hidden;         // [count, F] the same before the product with down; times the weight afterwards
  View hidden;           // [count, F]
  const float* bias;     // [D] of down, or null
  const int32_t* slots;  // [count]
  View weights;          // [N, k]
  View d_weights;        // [N, k] written at the slots; null: not wanted
  int64_t count, width, hidden_width;
};

}  // namespace carousel::ops

CPU_KERNEL(moe_route_backward, ops::MoeRouteBackwardArgs);
CPU_COMPOSITE_WITH_WORKSPACE(moe_experts_backward, ops::MoeExpertsBackwardArgs);
CPU_KERNEL(moe_weigh, ops::MoeWeighArgs);
