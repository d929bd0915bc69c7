// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of both convolutions.
#pragma once

#include "carousel/ops/kernel.h"
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

/// d_x, d_b and d_c are written. The gradients of parameters are added to, each element by one chain over the rows.
struct ShortConvBackwardArgs {
  ShortConvArgs forward;  // its inputs; out and state are not read
  View state;             // [B, kept * D] the state before the forward; null: zeros
  View d;                 // [N, D]
  View d_x, d_b, d_c;     // [N, D], or null
  float* d_taps;          // [D, K] as the master lies, or null
  float* d_bias;          // [D], or null
  float* const* d_state;  // [B] of [kept, D], replaced in place; or null
  void* workspace;        // scratch memory of short_conv_backward_workspace bytes
};

}  // namespace carousel::ops

KERNEL(short_conv, ops::ShortConvArgs);
CPU_KERNEL_WITH_WORKSPACE(short_conv_backward, ops::ShortConvBackwardArgs);
