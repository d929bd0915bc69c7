// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/short_conv.h"

namespace carousel::ops {

Tensor short_conv(Ctx& ctx, const Tensor& bcx, const Tensor& taps, const Tensor& bias, const Seqs& seqs,
                  LayerStates states) {
  constexpr const char* kWhere = "ops::short_conv";
  check_shape(kWhere, "taps", taps, {-1, -1});
  check_dtype(kWhere, "taps", taps, DType::kF32);
  const int64_t count = taps.dim(0), width = taps.dim(1), rows = seqs.rows(), batch = seqs.batch();
  if (count < 1) fail(ErrorKind::kShape, "{}: taps is {}, expected at least one tap", kWhere, taps.shape().str());
  check_shape(kWhere, "bcx", bcx, {rows, 3 * width});
  check_dtype(kWhere, "bcx", bcx, DType::kF32);
  if (bias.defined()) {
    check_shape(kWhere, "bias", bias, {width});
    check_dtype(kWhere, "bias", bias, DType::kF32);
  }
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0 || width == 0) return out;

  const Tensor list = ctx.arena.empty({batch, static_cast<int64_t>(sizeof(ShortConvSequence))}, DType::kU8);
  auto* sequences = static_cast<ShortConvSequence*>(list.raw());
  for (int64_t s = 0; s < batch; ++s) {
    float* u = states.empty() || count == 1 ? nullptr : states.fixed(s, 0);
    sequences[s] = {seqs.offsets[static_cast<size_t>(s)], seqs.length(s), u};
  }
  kernels::short_conv(ctx.stream, {bcx.f32(), taps.f32(), bias.defined() ? bias.f32() : nullptr, out.f32(), count,
                                   width, sequences, batch});
  return out;
}

}  // namespace carousel::ops
