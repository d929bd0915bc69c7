// SPDX-License-Identifier: Apache-2.0
// What ops::block_linear calls, and what the kernels of its blocks are called with.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/linear/block_linear.h"

namespace carousel::ops {

struct BlockProduct {
  View x;  // [rows, width]
  const BlockWeight* weight;
};
/// Projections side by side in y.
struct BlockProductsArgs {
  const BlockProduct* parts;  // [count], of the same blocks
  int64_t count;
  int64_t rows;
  View y;  // [rows, count * width]
  void* workspace = nullptr;
};

struct BlockLinearArgs {
  View x, y;            // [rows, width]; y at the part's first column
  const float* weight;  // [size, width]
  const float* bias;    // [width] or null
  int64_t rows, width, size;
};

/// One of the projections that read the same x.
struct BlockBackwardPart {
  View d_y;               // [rows, width]
  const float* packed;    // the weight: panels of wide blocks, or lanes of narrow ones (BlockWeight)
  int64_t block_floats;   // of wide blocks: from the panels of a block to those of the next
  float* d_weight;        // [blocks, size, size], added to; null: not wanted
  float* d_bias;          // of the first block [size], added to; null: not wanted
  int64_t d_bias_stride;  // from the biases of a block to those of the next
};
struct BlockBackwardArgs {
  View x, d_x;                     // [rows, width]; only block_linear_d_x writes d_x
  const BlockBackwardPart* parts;  // [count]
  int64_t count;
  int64_t rows, blocks, size;
  bool wide;
  void* workspace = nullptr;
};

}  // namespace carousel::ops

COMPOSITE_WITH_WORKSPACE(block_products, ops::BlockProductsArgs);
CPU_KERNEL(block_linear, ops::BlockLinearArgs);
CPU_KERNEL_WITH_WORKSPACE(block_linear_d_x, ops::BlockBackwardArgs);
CPU_KERNEL_WITH_WORKSPACE(block_linear_d_weight, ops::BlockBackwardArgs);
