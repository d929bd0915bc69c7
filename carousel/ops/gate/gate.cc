// SPDX-License-Identifier: Apache-2.0
// Elementwise gates: checks, and the calls of the kernels.
#include "carousel/ops/gate/gate.h"

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

/// Keeps the result: 1 - (out / cap)^2 is the derivative.
void record_soft_cap(Ctx& ctx, const Tensor& x, float cap, const Tensor& out) {
  const auto backward = [x, cap, out](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    const View d_x = view(grads.write(inner, columns(x)));
    kernels::soft_cap_backward(inner.stream, {view(out), view(d[0]), d_x, out.dim(0), out.dim(1), cap});
  };
  ctx.tape->record(ctx, "ops::soft_cap", {x}, {out}, backward);
}

void record_gate_heads(Ctx& ctx, const Tensor& x, const Tensor& gate_pre, const Tensor& out) {
  const auto backward = [x, gate_pre](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    const int64_t heads = gate_pre.dim(1);
    GateHeadsBackwardArgs args = {view(x), view(d[0]), view(gate_pre), {}, {}, x.dim(0), heads, x.dim(1) / heads};
    if (grads.wants(x)) args.d_x = view(grads.write(inner, columns(x)));
    if (grads.wants(gate_pre)) args.d_gate_pre = view(grads.write(inner, columns(gate_pre)));
    kernels::gate_heads_backward(inner.stream, args);
  };
  ctx.tape->record(ctx, "ops::gate_heads", {x, gate_pre}, {out}, backward);
}

}  // namespace

Tensor gated_unit(Ctx& ctx, const Tensor& gate_up, Activation activation) {
  constexpr const char* kWhere = "ops::gated_unit";
  check_shape(kWhere, "gate_up", gate_up, {-1, -1});
  check_dtype(kWhere, "gate_up", gate_up, DType::kF32);
  if (gate_up.dim(1) % 2 != 0) {
    fail(ErrorKind::kShape, "{}: gate_up is {}, expected an even last dimension", kWhere, gate_up.shape().str());
  }
  const int64_t rows = gate_up.dim(0), width = gate_up.dim(1) / 2;
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0 || width == 0) return out;
  const Activation form = activation_of(ctx, activation);
  kernels::gated_unit(ctx.stream,
                      {view(gate_up), view(out), rows, width, form, ctx.numerics.gates, ctx.numerics.activations});
  if (ctx.tape != nullptr) {
    const auto backward = [gate_up, form](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      const View d_gate_up = view(grads.write(inner, columns(gate_up)));
      kernels::gated_unit_backward(inner.stream,
                                   {view(gate_up), view(d[0]), d_gate_up, d[0].dim(0), d[0].dim(1), form});
    };
    ctx.tape->record(ctx, "ops::gated_unit", {gate_up}, {out}, backward);
  }
  return out;
}

Activation activation_of(const Ctx& ctx, Activation activation) {
  return activation == Activation::kGelu && ctx.numerics.gelu_tanh ? Activation::kGeluTanh : activation;
}

Tensor swiglu(Ctx& ctx, const Tensor& gate_up) { return gated_unit(ctx, gate_up, Activation::kSilu); }

Tensor soft_cap(Ctx& ctx, const Tensor& x, float cap, DType dtype) {
  check_shape("ops::soft_cap", "x", x, {-1, -1});
  check_dtype("ops::soft_cap", "x", x, DType::kF32);
  if (!(cap > 0)) fail(ErrorKind::kInput, "ops::soft_cap: cap is {}, expected a number above 0", cap);
  if (x.count() == 0) return x;
  const bool recorded = ctx.tape != nullptr && ctx.tape->needs(x);
  const Tensor out = recorded ? ctx.arena.empty(x.shape()) : x;
  kernels::soft_cap(ctx.stream, {view(x), view(out), x.count(), cap, dtype});
  if (recorded) record_soft_cap(ctx, x, cap, out);
  return out;
}

Tensor gate_heads(Ctx& ctx, const Tensor& x, const Tensor& gate_pre) {
  constexpr const char* kWhere = "ops::gate_heads";
  check_shape(kWhere, "gate_pre", gate_pre, {-1, -1});
  check_dtype(kWhere, "gate_pre", gate_pre, DType::kF32);
  check_shape(kWhere, "x", x, {gate_pre.dim(0), -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  const int64_t rows = gate_pre.dim(0), heads = gate_pre.dim(1);
  if (heads < 1 || x.dim(1) % heads != 0) {
    fail(ErrorKind::kShape, "{}: x is {}, expected a multiple of the {} heads as last dimension", kWhere,
         x.shape().str(), heads);
  }
  Tensor out = ctx.arena.empty({rows, x.dim(1)});
  if (rows == 0) return out;
  kernels::gate_heads(ctx.stream, {view(x), view(out), view(gate_pre), rows, heads, x.dim(1) / heads,
                                   ctx.numerics.gates, ctx.numerics.activations});
  if (ctx.tape != nullptr) record_gate_heads(ctx, x, gate_pre, out);
  return out;
}

Tensor relu(Ctx& ctx, const Tensor& x) {
  check_dtype("ops::relu", "x", x, DType::kF32);
  Tensor out = ctx.arena.empty(x.shape());
  if (x.count() == 0) return out;
  kernels::relu(ctx.stream, {view(x), {}, view(out), x.count()});
  if (ctx.tape != nullptr) {
    ctx.tape->record(ctx, "ops::relu", {x}, {out}, [x](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      const View d_x = view(grads.write(inner, {x, 0, x.dim(-1)}));
      kernels::relu_backward(inner.stream, {view(x), view(d[0]), d_x, x.count() / x.dim(-1), x.dim(-1)});
    });
  }
  return out;
}

Tensor add(Ctx& ctx, const Tensor& x, const Tensor& y) {
  constexpr const char* kWhere = "ops::add";
  check_dtype(kWhere, "x", x, DType::kF32);
  check_dtype(kWhere, "y", y, DType::kF32);
  if (!(x.shape() == y.shape())) {
    fail(ErrorKind::kShape, "{}: y is {}, expected {} as x", kWhere, y.shape().str(), x.shape().str());
  }
  Tensor out = ctx.arena.empty(x.shape());
  if (x.count() == 0) return out;
  kernels::add(ctx.stream, {view(x), view(y), view(out), x.count()});
  if (ctx.tape != nullptr) {
    ctx.tape->record(ctx, "ops::add", {x, y}, {out},
                     [x = x.name(), y = y.name()](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
                       for (const Tensor& input : {x, y}) {
                         if (grads.wants(input)) grads.give(inner, input, d[0]);
                       }
                     });
  }
  return out;
}

}  // namespace carousel::ops
