// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of narrow blocks.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/linear/block_linear.h"

namespace carousel::ops {

struct BlockLinearArgs {
  View x, y;            // [rows, width]; y at the part's first column
  const float* weight;  // [size, width]
  const float* bias;    // [width] or null
  int64_t rows, width, size;
};

}  // namespace carousel::ops

KERNEL(block_linear, ops::BlockLinearArgs);
