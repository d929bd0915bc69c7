// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the quantile error.
#pragma once

#include "carousel/ops/columns.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct QuantileErrorArgs {
  View y;                // [N, Q * P], level after level
  View wanted;           // [N, P]
  const double* levels;  // [Q]
  float* losses;         // [N]
  View d_y;              // [N, Q * P], or no data
  int64_t N, Q, P;
  float scale;
};

}  // namespace carousel::ops

CPU_KERNEL(quantile_error, ops::QuantileErrorArgs);
