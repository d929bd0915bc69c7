// SPDX-License-Identifier: Apache-2.0
// The norms: checks, and the calls of the kernels.
#include "carousel/ops/norm/norm.h"

#include "carousel/core/error.h"
#include "carousel/ops/norm/norm_backward_cpu.h"
#include "carousel/ops/norm/norm_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

const float* parameter(const char* where, const char* name, const Tensor& tensor, int64_t width) {
  if (!tensor.defined()) return nullptr;
  check_shape(where, name, tensor, {width});
  check_dtype(where, name, tensor, DType::kF32);
  return view(tensor).f32();
}

NormArgs norm_args(const char* where, const Norm& norm, int64_t width) {
  return {norm.kind, norm.eps, parameter(where, "weight", norm.weight, width), norm.weight_offset,
          parameter(where, "bias", norm.bias, width)};
}

bool casts(const Numerics& numerics) {
  return numerics.activations != DType::kF32 || numerics.gates != DType::kF32 || numerics.norm != Numerics::Norm{};
}

void run_cast(Ctx& ctx, const HeadNormArgs& head, View y, View sum) {
  const Numerics& numerics = ctx.numerics;
  kernels::cast_norm(ctx.stream, {head, y, sum, numerics.norm, numerics.activations, numerics.gates});
}

void run_backward(Ctx& ctx, NormBackwardArgs args) {
  const Tensor workspace = ctx.workspace(kernels::norm_backward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::norm_backward(ctx.stream, args);
}

/// The gradient of a norm of whole rows without its places: d_x is left to the caller.
NormBackwardArgs whole_rows(const Tensor& x, const Norm& norm, const Tensor& d, Grads& grads) {
  NormBackwardArgs args = {};
  args.x = view(x);
  args.norm = norm_args("ops::add_norm", norm, x.dim(1));
  args.d = view(d);
  args.d_weight = grads.parameter(norm.weight);
  args.d_bias = grads.parameter(norm.bias);
  args.rows = x.dim(0);
  args.heads = 1;
  args.dv = x.dim(1);
  return args;
}

/// Only the norm is recorded: the sum is x itself.
void record_norm(Ctx& ctx, const Tensor& x, const Norm& norm, const Tensor& normed) {
  const auto backward = [x, norm](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    NormBackwardArgs args = whole_rows(x, norm, d[0], grads);
    if (grads.wants(x)) args.d_x = view(grads.write(inner, columns(x)));
    run_backward(inner, args);
  };
  ctx.tape->record(ctx, "ops::add_norm", {x, norm.weight, norm.bias}, {normed}, backward);
}

/// x and y share the gradient of their sum.
void record_add_norm(Ctx& ctx, const Tensor& x, const Tensor& y, const Norm& norm, const AddNorm& out) {
  const auto share = [x = x.name(), y = y.name()](Ctx& inner, const Tensor& d, Grads& grads) {
    for (const Tensor& input : {x, y}) {
      if (grads.wants(input)) grads.give(inner, input, d);
    }
  };
  if (norm.kind == Norm::Kind::kNone) {
    ctx.tape->record(ctx, "ops::add_norm", {x, y}, {out.sum},
                     [share](Ctx& inner, std::span<const Tensor> d, Grads& grads) { share(inner, d[0], grads); });
    return;
  }
  const auto backward = [share, x = x.name(), y = y.name(), sum = out.sum, norm](Ctx& inner, std::span<const Tensor> d,
                                                                                 Grads& grads) {
    if (!d[1].defined()) return share(inner, d[0], grads);
    NormBackwardArgs args = whole_rows(sum, norm, d[1], grads);
    const Tensor d_sum = grads.wants(x) || grads.wants(y) ? inner.arena.empty(sum.shape()) : Tensor();
    if (d_sum.defined()) args.d_x = view(d_sum);
    if (d[0].defined()) args.d_more = view(d[0]);
    run_backward(inner, args);
    if (d_sum.defined()) share(inner, d_sum, grads);
  };
  ctx.tape->record(ctx, "ops::add_norm", {x, y, norm.weight, norm.bias}, {out.sum, out.normed}, backward);
}

void record_head_norm(Ctx& ctx, const Tensor& h, int64_t heads, const Norm& norm, const NormGate& gate,
                      const Tensor& out) {
  const auto backward = [h, heads, norm, gate](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    NormBackwardArgs args = whole_rows(h, norm, d[0], grads);
    args.heads = heads;
    args.dv = h.dim(1) / heads;
    args.gate = gate.kind;
    if (grads.wants(h)) args.d_x = view(grads.write(inner, columns(h)));
    if (gate.kind != NormGate::Kind::kNone) {
      args.pre = view(gate.pre);
      if (grads.wants(gate.pre.of)) args.d_pre = view(grads.write(inner, gate.pre));
    }
    if (gate.skip.defined()) {
      args.skip = view(gate.skip);
      args.skip_weight = gate.skip_weight.f32();
      args.d_skip_weight = grads.parameter(gate.skip_weight);
      if (grads.wants(gate.skip.of)) args.d_skip = view(grads.write(inner, gate.skip));
    }
    run_backward(inner, args);
  };
  ctx.tape->record(ctx, "ops::head_norm", {h, gate.pre.of, gate.skip.of, gate.skip_weight, norm.weight, norm.bias},
                   {out}, backward);
}

}  // namespace

AddNorm add_norm(Ctx& ctx, const Tensor& x, const Tensor& y, const Norm& norm) {
  constexpr const char* kWhere = "ops::add_norm";
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  const int64_t rows = x.dim(0), width = x.dim(1);
  if (y.defined()) {
    check_shape(kWhere, "y", y, {rows, width});
    check_dtype(kWhere, "y", y, DType::kF32);
  }
  const NormArgs parameters = norm_args(kWhere, norm, width);

  AddNorm out;
  out.sum = y.defined() ? ctx.arena.empty({rows, width}) : x;
  if (norm.kind == Norm::Kind::kNone) {
    out.normed = out.sum;
    if (!y.defined()) return out;
  } else {
    out.normed = ctx.arena.empty({rows, width});
  }
  if (rows == 0 || width == 0) return out;
  const View added = y.defined() ? view(y) : View();
  if (casts(ctx.numerics)) {
    run_cast(ctx, {view(x), {}, {}, nullptr, NormGate::Kind::kNone, view(out.normed), parameters, rows, 1, width},
             added, view(out.sum));
  } else {
    kernels::add_norm(ctx.stream, {view(x), added, view(out.sum), view(out.normed), parameters, rows, width});
  }
  if (ctx.tape == nullptr) return out;
  if (y.defined()) {
    record_add_norm(ctx, x, y, norm, out);
  } else {
    record_norm(ctx, x, norm, out.normed);
  }
  return out;
}

Tensor head_norm(Ctx& ctx, const Tensor& h, int64_t heads, const Norm& norm, const NormGate& gate) {
  constexpr const char* kWhere = "ops::head_norm";
  check_shape(kWhere, "h", h, {-1, -1});
  check_dtype(kWhere, "h", h, DType::kF32);
  const int64_t rows = h.dim(0), width = h.dim(1);
  if (heads <= 0 || width % heads != 0) {
    fail(ErrorKind::kShape, "{}: h is {}, expected a last dimension that is a multiple of {} heads", kWhere,
         h.shape().str(), heads);
  }
  const bool gated = gate.kind != NormGate::Kind::kNone, skips = gate.skip.defined();
  if (gated) check_columns(kWhere, "the gate", gate.pre, rows, width);
  if (skips) check_columns(kWhere, "skip", gate.skip, rows, width);
  if (skips) check_shape(kWhere, "skip_weight", gate.skip_weight, {width});
  const float* skip_weight = skips ? parameter(kWhere, "skip_weight", gate.skip_weight, width) : nullptr;
  const NormArgs parameters = norm_args(kWhere, norm, width);
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0 || width == 0) return out;
  const HeadNormArgs args = {view(h),    view(gate.pre), view(gate.skip), skip_weight,  gate.kind, view(out),
                             parameters, rows,           heads,           width / heads};
  if (casts(ctx.numerics)) {
    run_cast(ctx, args, {}, {});
  } else {
    kernels::head_norm(ctx.stream, args);
  }
  if (ctx.tape != nullptr) record_head_norm(ctx, h, heads, norm, gate, out);
  return out;
}

}  // namespace carousel::ops
