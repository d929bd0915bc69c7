// SPDX-License-Identifier: Apache-2.0
// Short convolutions over time: causal, depthwise, K taps. LFM2's is gated on both sides, xLSTM's is followed by a
// SiLU.
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

/// out = silu(bias + sum_k w[k] * x[t-(K-1)+k]).
///   x [N, D] f32 columns; taps [K, D] f32, the last one multiplies the current row; bias [D] or empty
///   state per sequence, f32: `index` of the block's: u [K, D], the last K inputs, the current one among them, oldest
///   first (xLSTM's own step form keeps K, one more than needed); replaced in place returns [N, D]. K is at least 1. N
///   may be 0.
Tensor silu_conv(Ctx& ctx, View x, const Tensor& taps, const Tensor& bias, const Seqs& seqs, LayerStates states,
                 size_t index = 0);

/// [D, 1, K], as files hold it, to the taps above: [K, D]. Empty for a tensor without memory.
Tensor conv_taps(const Tensor& weight);

struct ShortConvSequence {
  int64_t first_row, rows;
  float* u;  // [kept, D] state, or null: zeros, nothing kept
};
struct ShortConvArgs {
  View x;             // [N, D]
  View b, c;          // [N, D] gates of x and of the result; null data: none
  const float* taps;  // [K, D]
  const float* bias;  // [D] or null
  float* out;         // [N, D]
  int64_t taps_count, width;
  int64_t kept;                        // inputs in the state, K-1 or K
  bool silu;                           // of the sum
  DType gates, dtype;                  // what the SiLU and every other result is rounded to
  const ShortConvSequence* sequences;  // [B]
  int64_t batch;
};

}  // namespace carousel::ops

KERNEL(short_conv, ops::ShortConvArgs);
