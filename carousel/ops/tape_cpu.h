// SPDX-License-Identifier: Apache-2.0
// What the kernels that join gradients are called with.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/columns.h"

namespace carousel::ops {

struct JoinArgs {
  View x;  // [rows, width], added
  View y;  // [rows, width], added to; or filled with zeros
  int64_t rows, width;
};

}  // namespace carousel::ops

KERNEL(add_to, ops::JoinArgs);
KERNEL(fill_zero, ops::JoinArgs);
