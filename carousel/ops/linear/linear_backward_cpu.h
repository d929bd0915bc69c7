// SPDX-License-Identifier: Apache-2.0
// The products of the gradients of a projection. All are chains of fused multiply-adds over panels, as the projection's
// own are: of d_x over the outputs, of d_w over the rows.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::ops {

/// d_x = d_y W, summed over weights whose outputs lie side by side in d_y.
struct LinearDxArgs {
  View d_y;                      // [N, M_0 + M_1 + ...]
  const Weight* const* weights;  // [count] of [M_i, K], each with its transpose
  int64_t count;
  int64_t N, K;
  View d_x;  // [N, K], written
  void* workspace = nullptr;
};

/// d_w += d_y^T x. An element is one chain over the rows that goes on from what d_w holds, so rows may come in several
/// calls.
struct LinearDwArgs {
  View d_y;    // [N, M]
  View x;      // [N, K]
  float* d_w;  // [M, K]
  int64_t N, M, K;
  void* workspace = nullptr;
  bool rounds = false;  // x and d_y are rounded to bf16, as of a weight in bf16; sums stay f32
};

/// Panels of x^T in bf16: [ceil(K / 32)][ceil(N / 2)][32] pairs of rows.
struct PackRowPairsArgs {
  View x;  // [N, K]
  int64_t N, K;
  char* panels;
};

/// linear_dw of at most so many outputs takes x as it lies: panels would cost more than the product.
constexpr int64_t kFewOutputs = 8;

/// sum [M] += x, row after row.
struct SumRowsArgs {
  View x;  // [N, M]
  float* sum;
  int64_t N, M;
};

}  // namespace carousel::ops

CPU_COMPOSITE_WITH_WORKSPACE(linear_dx, carousel::ops::LinearDxArgs);
CPU_COMPOSITE_WITH_WORKSPACE(linear_dw, carousel::ops::LinearDwArgs);
CPU_KERNEL(linear_dw_few, carousel::ops::LinearDwArgs);
CPU_KERNEL(pack_row_pairs, carousel::ops::PackRowPairsArgs);
CPU_KERNEL(sum_rows, carousel::ops::SumRowsArgs);
