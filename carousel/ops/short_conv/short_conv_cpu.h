// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of both convolutions.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/short_conv/short_conv.h"

namespace carousel::ops {

struct ShortConvArgs {
  View x;             // [N, D]
  View b, c;          // [N, D] gates of x and of the result; null: none
  const float* taps;  // [K, D]
  const float* bias;  // [D] or null
  View out;           // [N, D]
  int64_t taps_count, width;
  int64_t kept;        // inputs in the state, K-1 or K
  bool silu;           // the result is the SiLU of the sum
  DType gates, dtype;  // what the SiLU is rounded to; what every other result is rounded to
  SeqsView seqs;
  float* const* state;  // [B] of [kept, D]; null: zeros, nothing is kept
};

}  // namespace carousel::ops

KERNEL(short_conv, ops::ShortConvArgs);
