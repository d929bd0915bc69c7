// SPDX-License-Identifier: Apache-2.0
// What the kernels that join gradients are called with.
#pragma once

#include "carousel/ops/columns.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct JoinArgs {
  View x;  // [rows, width], added
  View y;  // [rows, width], added to; or filled with zeros
  int64_t rows, width;
};

struct CopyStatesArgs {
  const float* const* from;  // [batch] of [count]
  View to;                   // [batch, count]
  int64_t batch, count;
};

struct WriteStatesArgs {
  View from;         // [batch, count]
  float* const* to;  // [batch] of [count]
  int64_t batch, count;
};

}  // namespace carousel::ops

CPU_KERNEL(add_to, ops::JoinArgs);
CPU_KERNEL(fill_zero, ops::JoinArgs);
CPU_KERNEL(copy_states, ops::CopyStatesArgs);
CPU_KERNEL(write_states, ops::WriteStatesArgs);
