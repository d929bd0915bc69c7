// SPDX-License-Identifier: Apache-2.0
// Short convolutions: checks, and the call of the kernel they share.
#include "carousel/ops/short_conv/short_conv.h"

#include "carousel/core/error.h"
#include "carousel/ops/short_conv/short_conv_cpu.h"

namespace carousel::ops {
namespace {

void check_taps(const char* where, const ConvTaps& taps) {
  if (!taps.taps().defined()) fail(ErrorKind::kShape, "{}: taps are empty, expected at least one tap", where);
}

/// Fills in what both convolutions share, and runs.
Tensor convolve(Ctx& ctx, ShortConvArgs args, const ConvTaps& taps, const Seqs& seqs, LayerStates states,
                size_t index) {
  args.taps = taps.taps().f32();
  args.bias = taps.bias().defined() ? taps.bias().f32() : nullptr;
  args.taps_count = taps.count();
  args.width = taps.width();
  args.gates = ctx.numerics.gates;
  args.dtype = ctx.numerics.activations;
  args.seqs = seqs.view();
  if (!states.empty() && args.kept > 0) args.state = states.fixed(index);
  Tensor out = ctx.arena.empty({seqs.rows(), args.width});
  if (seqs.rows() == 0 || args.width == 0) return out;
  args.out = view(out);
  kernels::short_conv(ctx.stream, args);
  return out;
}

}  // namespace

ConvTaps::ConvTaps(const Tensor& weight, const Tensor& bias) : weight_(weight), bias_(bias) {
  constexpr const char* kWhere = "ops::conv_taps";
  check_shape(kWhere, "weight", weight, {-1, 1, -1});
  check_dtype(kWhere, "weight", weight, DType::kF32);
  const int64_t width = weight.dim(0), count = weight.dim(2);
  if (count < 1) {
    fail(ErrorKind::kShape, "{}: weight is {}, expected at least one tap", kWhere, weight.shape().str());
  }
  if (bias.defined()) {
    check_shape(kWhere, "bias", bias, {width});
    check_dtype(kWhere, "bias", bias, DType::kF32);
  }
  taps_ = Tensor(Shape{count, width}, DType::kF32, weight.memory());
}

void ConvTaps::pack(const Stream& /*stream*/) const {
  if (taps_.raw() == nullptr) return;
  for (int64_t d = 0; d < width(); ++d) {
    for (int64_t k = 0; k < count(); ++k) taps_.f32()[k * width() + d] = weight_.f32()[d * count() + k];
  }
}

Tensor short_conv(Ctx& ctx, const Tensor& bcx, const ConvTaps& taps, const Seqs& seqs, LayerStates states) {
  ctx.without_backward("ops::short_conv");
  constexpr const char* kWhere = "ops::short_conv";
  check_taps(kWhere, taps);
  const int64_t width = taps.width();
  check_shape(kWhere, "bcx", bcx, {seqs.rows(), 3 * width});
  check_dtype(kWhere, "bcx", bcx, DType::kF32);
  ShortConvArgs args = {};
  args.b = view(columns(bcx, 0, width));
  args.c = view(columns(bcx, width, width));
  args.x = view(columns(bcx, 2 * width, width));
  args.kept = taps.count() - 1;
  return convolve(ctx, args, taps, seqs, states, 0);
}

Tensor silu_conv(Ctx& ctx, const Columns& x, const ConvTaps& taps, const Seqs& seqs, LayerStates states, size_t index) {
  ctx.without_backward("ops::silu_conv");
  constexpr const char* kWhere = "ops::silu_conv";
  check_taps(kWhere, taps);
  check_columns(kWhere, "x", x, seqs.rows(), taps.width());
  ShortConvArgs args = {};
  args.x = view(x);
  args.kept = taps.count();
  args.silu = true;
  return convolve(ctx, args, taps, seqs, states, index);
}

}  // namespace carousel::ops
