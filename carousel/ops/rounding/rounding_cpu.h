// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels that round.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {

struct RoundArgs {
  View x;  // [rows, width]
  int64_t rows, width;
  DType dtype;
};
struct RoundStatesArgs {
  SeqsView seqs;
  float* const* states;  // [B] of [count]
  int64_t count;
  DType dtype;
};

}  // namespace carousel::ops

CPU_KERNEL(round_to, ops::RoundArgs);
CPU_KERNEL(round_states, ops::RoundStatesArgs);
