// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of a mixture of experts.
#pragma once

#include "carousel/cpu/kernel.h"
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
/// Rows of one expert: gathered from x, or added to the rows they were gathered from.
struct MoeRowsArgs {
  View from;             // [*, D] rows to copy, or [count, D] rows to add
  View to;               // [count, D] copies, or [*, D] sums
  const int32_t* slots;  // [count] slot n * k + i: row n, its i-th choice
  View weights;          // [N, k]
  int64_t count, width, top_k;
};

}  // namespace carousel::ops

KERNEL(moe_route, ops::MoeRouteArgs);
KERNEL(moe_gather, ops::MoeRowsArgs);
KERNEL(moe_scatter, ops::MoeRowsArgs);
