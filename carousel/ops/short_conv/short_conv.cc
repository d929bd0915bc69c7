// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/short_conv/short_conv.h"

#include "carousel/core/error.h"

namespace carousel::ops {
namespace {

void check_taps(const char* where, const Tensor& taps, const Tensor& bias) {
  check_shape(where, "taps", taps, {-1, -1});
  check_dtype(where, "taps", taps, DType::kF32);
  if (taps.dim(0) < 1) {
    fail(ErrorKind::kShape, "{}: taps is {}, expected at least one tap", where, taps.shape().str());
  }
  if (!bias.defined()) return;
  check_shape(where, "bias", bias, {taps.dim(1)});
  check_dtype(where, "bias", bias, DType::kF32);
}

/// Fills in what both convolutions share, and runs.
Tensor convolve(Ctx& ctx, ShortConvArgs args, const Tensor& taps, const Tensor& bias, const Seqs& seqs,
                LayerStates states, size_t index) {
  const int64_t rows = seqs.rows(), batch = seqs.batch();
  args.taps = taps.f32();
  args.bias = bias.defined() ? bias.f32() : nullptr;
  args.taps_count = taps.dim(0);
  args.width = taps.dim(1);
  args.gates = ctx.numerics.gates;
  args.dtype = ctx.numerics.activations;
  Tensor out = ctx.arena.empty({rows, args.width});
  if (rows == 0 || args.width == 0) return out;

  const Tensor list = ctx.arena.empty({batch, static_cast<int64_t>(sizeof(ShortConvSequence))}, DType::kU8);
  auto* sequences = static_cast<ShortConvSequence*>(list.raw());
  for (int64_t s = 0; s < batch; ++s) {
    float* u = states.empty() || args.kept == 0 ? nullptr : states.fixed(index)[s];
    sequences[s] = {seqs.offsets[static_cast<size_t>(s)], seqs.length(s), u};
  }
  args.out = out.f32();
  args.sequences = sequences;
  args.batch = batch;
  kernels::short_conv(ctx.stream, args);
  return out;
}

}  // namespace

Tensor short_conv(Ctx& ctx, const Tensor& bcx, const Tensor& taps, const Tensor& bias, const Seqs& seqs,
                  LayerStates states) {
  constexpr const char* kWhere = "ops::short_conv";
  check_taps(kWhere, taps, bias);
  const int64_t width = taps.dim(1);
  check_shape(kWhere, "bcx", bcx, {seqs.rows(), 3 * width});
  check_dtype(kWhere, "bcx", bcx, DType::kF32);
  ShortConvArgs args = {};
  args.b = columns(bcx, 0);
  args.c = columns(bcx, width);
  args.x = columns(bcx, 2 * width);
  args.kept = taps.dim(0) - 1;
  return convolve(ctx, args, taps, bias, seqs, states, 0);
}

Tensor silu_conv(Ctx& ctx, View x, const Tensor& taps, const Tensor& bias, const Seqs& seqs, LayerStates states,
                 size_t index) {
  constexpr const char* kWhere = "ops::silu_conv";
  check_taps(kWhere, taps, bias);
  if (x.stride < taps.dim(1)) {
    fail(ErrorKind::kShape, "{}: x has row stride {}, expected at least {}", kWhere, x.stride, taps.dim(1));
  }
  ShortConvArgs args = {};
  args.x = x;
  args.kept = taps.dim(0);
  args.silu = true;
  return convolve(ctx, args, taps, bias, seqs, states, index);
}

Tensor conv_taps(const Tensor& weight) {
  check_shape("ops::conv_taps", "weight", weight, {-1, 1, -1});
  if (weight.raw() == nullptr) return {};
  const int64_t width = weight.dim(0), count = weight.dim(2);
  Tensor taps(Shape{count, width}, DType::kF32);
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t k = 0; k < count; ++k) taps.f32()[k * width + d] = weight.f32()[d * count + k];
  }
  return taps;
}

}  // namespace carousel::ops
