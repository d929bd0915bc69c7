// SPDX-License-Identifier: Apache-2.0
// Short convolutions: checks, and the call of the kernel they share.
#include "carousel/ops/short_conv/short_conv.h"

#include "carousel/core/error.h"
#include "carousel/ops/packing.h"
#include "carousel/ops/short_conv/short_conv_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

void check_taps(const char* where, const ConvTaps& taps) {
  if (!taps.taps().defined()) fail(ErrorKind::kShape, "{}: taps are empty, expected at least one tap", where);
}

/// What both directions are told of a convolution. `x` holds B, C and X side by side where it is gated.
ShortConvArgs shared_args(const Columns& x, bool gated, const ConvTaps& taps, const Seqs& seqs) {
  const auto part = [&](int64_t i) { return view(columns(x.of, x.first + i * taps.width(), taps.width())); };
  ShortConvArgs args = {};
  if (gated) {
    args.b = part(0);
    args.c = part(1);
  }
  args.x = part(gated ? 2 : 0);
  args.taps = view(taps.taps()).f32();
  args.bias = taps.bias().defined() ? view(taps.bias()).f32() : nullptr;
  args.taps_count = taps.count();
  args.width = taps.width();
  args.kept = gated ? taps.count() - 1 : taps.count();
  args.silu = !gated;
  args.gates = args.dtype = DType::kF32;
  args.seqs = seqs.view();
  return args;
}

/// A convolution that ran, as its backward needs it.
struct Convolution {
  Columns x;
  bool gated;
  ConvTaps taps;
  Seqs seqs;
  LayerStates states;
  size_t index;  // of its state in the block
  Tensor state;  // [B, kept * D] before the forward, or empty
};

void convolve_backward(Ctx& ctx, const Convolution& conv, const Tensor& d, Grads& grads) {
  ShortConvBackwardArgs args = {};
  args.forward = shared_args(conv.x, conv.gated, conv.taps, conv.seqs);
  if (conv.state.defined()) args.state = view(conv.state);
  args.d = view(d);
  if (grads.wants(conv.x.of)) {
    const Columns d_x = grads.write(ctx, conv.x);
    const auto part = [&](int64_t i) {
      return view(columns(d_x.of, d_x.first + i * args.forward.width, args.forward.width));
    };
    args.d_x = part(conv.gated ? 2 : 0);
    if (conv.gated) {
      args.d_b = part(0);
      args.d_c = part(1);
    }
  }
  args.d_taps = grads.parameter(conv.taps.master());
  args.d_bias = grads.parameter(conv.taps.bias());
  const LayerStates d_states = grads.states(conv.states);
  if (!d_states.empty() && args.forward.kept > 0) args.d_state = d_states.fixed(conv.index);
  const Tensor workspace = ctx.workspace(kernels::short_conv_backward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::short_conv_backward(ctx.stream, args);
}

/// The block's state that a convolution replaces.
struct Place {
  LayerStates states;
  size_t index;
};

/// Runs, and records how the gradient is computed.
Tensor convolve(Ctx& ctx, const Columns& x, bool gated, const ConvTaps& taps, const Seqs& seqs, const Place& place) {
  ShortConvArgs args = shared_args(x, gated, taps, seqs);
  args.gates = ctx.numerics.gates;
  args.dtype = ctx.numerics.activations;
  Tensor out = ctx.arena.empty({seqs.rows(), args.width});
  if (seqs.rows() == 0 || args.width == 0) return out;
  const bool stateful = !place.states.empty() && args.kept > 0;
  if (stateful) args.state = place.states.fixed(place.index);
  Tensor before;
  if (stateful && ctx.tape != nullptr) {
    before = keep_state(ctx, seqs, place.states, place.index, args.kept * args.width);
  }
  args.out = view(out);
  kernels::short_conv(ctx.stream, args);
  if (ctx.tape != nullptr) {
    const Convolution conv = {x, gated, taps, seqs, place.states, place.index, before};
    const auto backward = [conv](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      convolve_backward(inner, conv, d[0], grads);
    };
    ctx.tape->record(ctx, gated ? "ops::short_conv" : "ops::silu_conv", {x.of, taps.master(), taps.bias()}, {out},
                     backward, stateful ? place.states : LayerStates());
  }
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
  const Tensor weight = weight_.to_host();
  const Packing packed(taps_);
  for (int64_t d = 0; d < width(); ++d) {
    for (int64_t k = 0; k < count(); ++k) packed.f32()[k * width() + d] = weight.f32()[d * count() + k];
  }
  packed.finish();
}

Tensor short_conv(Ctx& ctx, const Tensor& bcx, const ConvTaps& taps, const Seqs& seqs, LayerStates states) {
  constexpr const char* kWhere = "ops::short_conv";
  check_taps(kWhere, taps);
  check_shape(kWhere, "bcx", bcx, {seqs.rows(), 3 * taps.width()});
  check_dtype(kWhere, "bcx", bcx, DType::kF32);
  return convolve(ctx, columns(bcx), true, taps, seqs, {states, 0});
}

Tensor silu_conv(Ctx& ctx, const Columns& x, const ConvTaps& taps, const Seqs& seqs, LayerStates states, size_t index) {
  constexpr const char* kWhere = "ops::silu_conv";
  check_taps(kWhere, taps);
  check_columns(kWhere, "x", x, seqs.rows(), taps.width());
  return convolve(ctx, x, false, taps, seqs, {states, index});
}

}  // namespace carousel::ops
