// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels that copy rows.
#pragma once

#include "carousel/ops/kernel.h"
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

struct GatherRowsBackwardArgs {
  View d;               // [count, width]
  View d_x;             // [rows, width], written
  const int64_t* from;  // [count] the row of x that row i of the result is
  int64_t count, rows, width;
};

}  // namespace carousel::ops

KERNEL(gather_rows, ops::GatherRowsArgs);
CPU_KERNEL(gather_rows_backward, ops::GatherRowsBackwardArgs);
KERNEL(copy_columns, ops::CopyColumnsArgs);
