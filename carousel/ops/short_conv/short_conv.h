// SPDX-License-Identifier: Apache-2.0
// Short convolutions over time: causal, depthwise, K taps. LFM2's is gated on both sides, xLSTM's is followed by a
// SiLU.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// The taps of a depthwise convolution as the kernel reads them, and its bias: a form (ops/params.h).
class ConvTaps {
 public:
  ConvTaps() = default;
  /// weight [D, 1, K] f32, as files hold it; bias [D] f32 or empty. Throws kShape.
  ConvTaps(const Tensor& weight, const Tensor& bias);
  void pack(const Stream& stream) const;
  void release() { weight_ = Tensor(); }

  int64_t count() const { return taps_.dim(0); }    // K
  int64_t width() const { return taps_.dim(1); }    // D
  const Tensor& taps() const { return taps_; }      // [K, D] f32, the last one multiplies the current row
  const Tensor& bias() const { return bias_; }      // [D] f32, or empty; the master itself
  const Tensor& master() const { return weight_; }  // [D, 1, K] f32, or empty once released

 private:
  Tensor weight_;  // the master
  Tensor taps_, bias_;
};

/// out = C * (bias + sum_k w[k] * u[t-(K-1)+k]), u = B * X.
///   bcx [N, 3D] f32, columns B, C, X
///   state per sequence, f32: 0: u [K-1, D], the last gated inputs, oldest first; replaced in place
///   returns [N, D]. K may be 1 (no state). N may be 0.
Tensor short_conv(Ctx& ctx, const Tensor& bcx, const ConvTaps& taps, const Seqs& seqs, LayerStates states);

/// out = silu(bias + sum_k w[k] * x[t-(K-1)+k]).
///   x [N, D] f32 columns
///   state per sequence, f32: `index` of the block's: u [K, D], the last K inputs, the current one among them, oldest
///   first (xLSTM's own step form keeps K, one more than needed); replaced in place
///   returns [N, D]. K is at least 1. N may be 0.
Tensor silu_conv(Ctx& ctx, const Columns& x, const ConvTaps& taps, const Seqs& seqs, LayerStates states,
                 size_t index = 0);

}  // namespace carousel::ops
