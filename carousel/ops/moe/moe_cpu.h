// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of a mixture of experts.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/moe/moe.h"

namespace carousel::ops {

struct MoeRouteArgs {
  View logits;        // [N, E]
  const float* bias;  // [E] or null
  View scores;        // [N, E] scratch
  int32_t* experts;   // [N, k]
  View weights;       // [N, k]
  int64_t rows, count, top_k;
  bool normalise;
  float scale;
};
/// The experts of every row; see moe_experts.
struct MoeExpertsArgs {
  View x;                    // [N, D], contiguous
  const int32_t* chosen;     // [N, k] experts
  View weights;              // [N, k]
  const MoeExpert* experts;  // [count]
  int64_t count, rows, width, top_k;
  DType activations, gates;  // what a profile rounds the result of each step to, and the activation
  View y;                    // [N, D], zeros
  View gate_up;              // [N * k, 2F] kept for the backward, by expert and then by row; null: not kept
  void* workspace = nullptr;
};
/// Rows of one expert, copied together or added to where they came from.
struct MoeRowsArgs {
  View from;             // [*, D] rows to copy, or [count, D] rows to add
  View to;               // [count, D] copies, or [*, D] sums
  const int32_t* slots;  // [count] slot n * k + i: row n, its i-th choice
  View weights;          // [N, k]; null: rows are added as they are
  int64_t count, width, top_k;
};

}  // namespace carousel::ops

KERNEL(moe_route, ops::MoeRouteArgs);
COMPOSITE_WITH_WORKSPACE(moe_experts, ops::MoeExpertsArgs);
CPU_KERNEL(moe_gather, ops::MoeRowsArgs);
CPU_KERNEL(moe_scatter, ops::MoeRowsArgs);
