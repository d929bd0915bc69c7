// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of products with panels.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::ops {

/// Up to so many rows reading the weights bounds the time, and each panel is read through in one stream.
constexpr int64_t kFewRows = 64;

/// One weight of the call that is held as panels.
struct LinearPart {
  const void* panels;  // Weight::storage, kPanels
  const float* bias;   // [rows], or null
  int64_t rows;        // M_i
  int64_t first_col;   // column of y of its first output
  DType dtype;
};

struct LinearFwd {
  const float* x;           // [N, K]; null: it is packed already
  float* packed;            // [packed_count(N, K)] for x in tile order; unused by linear_fwd if N is 1
  const LinearPart* parts;  // [part_count]
  int64_t part_count;
  int64_t N, K;
  float* y;  // [N, y_stride]
  int64_t y_stride;
  // Set for a gated feed-forward: parts[0] is gate, parts[1] is up. The units are written to next->packed, not to y. It
  // is a product for the same kernel, and N is above kFewRows.
  const LinearFwd* next = nullptr;
  Activation activation = Activation::kSilu;
};

}  // namespace carousel::ops

KERNEL(linear_fwd, carousel::ops::LinearFwd);        // parts of floats
KERNEL(linear_bf16_fwd, carousel::ops::LinearFwd);   // parts of bf16, x rounded to it
KERNEL(linear_quant_fwd, carousel::ops::LinearFwd);  // parts of q8, or parts of q4
