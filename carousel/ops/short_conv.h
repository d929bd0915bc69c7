// SPDX-License-Identifier: Apache-2.0
// LFM2's gated short convolution: causal, depthwise, K taps, no activation.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// out = C * (bias + sum_k w[k] * u[t-(K-1)+k]), u = B * X.
///   bcx [N, 3D] f32, columns B, C, X; taps [K, D] f32, the last one multiplies the current row; bias [D] or empty
///   state per sequence, f32: 0: u [K-1, D], the last gated inputs, oldest first; replaced in place
///   returns [N, D]. K may be 1 (no state). N may be 0.
Tensor short_conv(Ctx& ctx, const Tensor& bcx, const Tensor& taps, const Tensor& bias, const Seqs& seqs,
                  LayerStates states);

struct ShortConvSequence {
  int64_t first_row, rows;
  float* u;  // [K-1, D] state, or null: zeros, nothing kept
};
struct ShortConvArgs {
  const float* bcx;   // [N, 3D]
  const float* taps;  // [K, D]
  const float* bias;  // [D] or null
  float* out;         // [N, D]
  int64_t taps_count, width;
  const ShortConvSequence* sequences;  // [B]
  int64_t batch;
};

}  // namespace carousel::ops

KERNEL(short_conv, ops::ShortConvArgs);
