// SPDX-License-Identifier: Apache-2.0
// What ops::block_linear calls, and what the kernel of narrow blocks is called with.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/linear/block_linear.h"

namespace carousel::ops {

/// Projections of the same x into columns of y.
struct BlockProductsArgs {
  View x;                  // [rows, width]
  int64_t x_width;         // of the matrix x is columns of
  const BlockPart* parts;  // [count], of the same blocks
  int64_t count;
  int64_t rows;
  View y;
  void* workspace = nullptr;
};

struct BlockLinearArgs {
  View x, y;            // [rows, width]; y at the part's first column
  const float* weight;  // [size, width]
  const float* bias;    // [width] or null
  int64_t rows, width, size;
};

}  // namespace carousel::ops

COMPOSITE_WITH_WORKSPACE(block_products, ops::BlockProductsArgs);
KERNEL(block_linear, ops::BlockLinearArgs);
