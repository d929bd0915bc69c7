// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels that copy rows.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/rows/rows.h"

namespace carousel::ops {

struct GatherRowsArgs {
  View x;               // [N, width]
  View out;             // [count, width]
  const int64_t* rows;  // [count]
  int64_t count, width;
};
struct CopyColumnsArgs {
  View x;
  View out;
  int64_t rows, width;
};

}  // namespace carousel::ops

KERNEL(gather_rows, ops::GatherRowsArgs);
KERNEL(copy_columns, ops::CopyColumnsArgs);
