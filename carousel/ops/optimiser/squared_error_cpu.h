// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the squared error.
#pragma once

#include "carousel/ops/columns.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct SquaredErrorArgs {
  View y, wanted;  // [N, O]
  float* losses;   // [N]
  View d_y;        // [N, O], or no data
  int64_t N, O;
  float scale;
};

}  // namespace carousel::ops

CPU_KERNEL(squared_error, ops::SquaredErrorArgs);
