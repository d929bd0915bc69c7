// SPDX-License-Identifier: Apache-2.0
// What ops::linear calls, and what the kernels of products with panels are called with.
#pragma once

#include "carousel/ops/gate/gate.h"
#include "carousel/ops/kernel.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::ops {

constexpr size_t kMaxParts = 16;  // weights of one call

/// Up to here weights are the traffic that counts, and each is read through.
constexpr int64_t kFewRows = 64;

/// The products of one call, side by side in y.
struct LinearArgs {
  View x;                        // [N, K], contiguous
  const Weight* const* weights;  // [count] of [M_i, K]
  int64_t count;
  int64_t N, K;
  View y;  // [N, M_0 + M_1 + ...]
  void* workspace = nullptr;
};

/// A feed-forward network with gated units.
struct FeedForwardArgs {
  View x;                          // [N, D], contiguous
  const Weight *gate, *up, *down;  // [F, D], [F, D], [M, F]
  Activation activation;
  int64_t N, D;
  View y;  // [N, M], contiguous
  void* workspace = nullptr;
};

/// Floats that the kernels of products need for x [N, K] in their own order. A block of 32 columns of x is 44 bytes to
/// the kernels of blocks: 11 f32, fewer than 32 but for the smallest K. Behind it sparse kernels read a vector more.
constexpr int64_t packed_count(int64_t N, int64_t K) { return N * (K < 11 ? 11 : K) + 16; }

/// One weight of the call that is held as panels.
struct LinearPart {
  const void* panels;  // of DensePanels
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
  // Set for gated units: parts[0] is gate, parts[1] is up. The units are written to next->packed, not to y. The same
  // kernel takes `next`, and N is above kFewRows.
  const LinearFwd* next = nullptr;
  Activation activation = Activation::kSilu;
  // For products of gradients, parts of f32 or of bf16 alone.
  int64_t x_stride = 0;     // elements between rows of x; 0: K
  bool transposed = false;  // x is given as [K, N]
  bool adds = false;        // a chain goes on from what y holds
};

}  // namespace carousel::ops

COMPOSITE_WITH_WORKSPACE(linear, carousel::ops::LinearArgs);
COMPOSITE_WITH_WORKSPACE(feed_forward, carousel::ops::FeedForwardArgs);
CPU_KERNEL(linear_fwd, carousel::ops::LinearFwd);         // parts of floats
CPU_KERNEL(linear_bf16_fwd, carousel::ops::LinearFwd);    // parts of bf16, x rounded to it
CPU_KERNEL(linear_quant_fwd, carousel::ops::LinearFwd);   // parts of q8, or parts of q4
CPU_KERNEL(linear_blocks_fwd, carousel::ops::LinearFwd);  // parts of one other block type
