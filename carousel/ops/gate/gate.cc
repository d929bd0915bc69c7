// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/gate/gate.h"

#include "carousel/core/error.h"

namespace carousel::ops {

Tensor gated_unit(Ctx& ctx, const Tensor& gate_up, Activation activation) {
  constexpr const char* kWhere = "ops::gated_unit";
  check_shape(kWhere, "gate_up", gate_up, {-1, -1});
  check_dtype(kWhere, "gate_up", gate_up, DType::kF32);
  if (gate_up.dim(1) % 2 != 0) {
    fail(ErrorKind::kShape, "{}: gate_up is {}, expected an even last dimension", kWhere, gate_up.shape().str());
  }
  const int64_t rows = gate_up.dim(0), width = gate_up.dim(1) / 2;
  Tensor out = ctx.arena.empty({rows, width});
  if (rows > 0 && width > 0) {
    kernels::swiglu(ctx.stream, gated_unit_args(ctx, gate_up.f32(), out.f32(), rows, width, activation));
  }
  return out;
}

SwigluArgs gated_unit_args(const Ctx& ctx, const float* gate_up, float* out, int64_t rows, int64_t width,
                           Activation activation) {
  return {gate_up, out, rows, width, activation_of(ctx, activation), ctx.numerics.gates, ctx.numerics.activations};
}

Activation activation_of(const Ctx& ctx, Activation activation) {
  return activation == Activation::kGelu && ctx.numerics.gelu_tanh ? Activation::kGeluTanh : activation;
}

Tensor swiglu(Ctx& ctx, const Tensor& gate_up) { return gated_unit(ctx, gate_up, Activation::kSilu); }

void soft_cap(Ctx& ctx, const Tensor& x, float cap, DType dtype) {
  check_shape("ops::soft_cap", "x", x, {-1, -1});
  check_dtype("ops::soft_cap", "x", x, DType::kF32);
  if (!(cap > 0)) fail(ErrorKind::kInput, "ops::soft_cap: cap is {}, expected a number above 0", cap);
  if (x.count() > 0) kernels::soft_cap(ctx.stream, {x.f32(), x.count(), cap, dtype});
}

void head_gate(Ctx& ctx, const Tensor& x, const Tensor& gate_pre) {
  check_shape("ops::head_gate", "gate_pre", gate_pre, {-1, -1});
  check_dtype("ops::head_gate", "gate_pre", gate_pre, DType::kF32);
  check_shape("ops::head_gate", "x", x, {gate_pre.dim(0), -1});
  check_dtype("ops::head_gate", "x", x, DType::kF32);
  const int64_t rows = gate_pre.dim(0), heads = gate_pre.dim(1);
  if (heads < 1 || x.dim(1) % heads != 0) {
    fail(ErrorKind::kShape, "ops::head_gate: x is {}, expected a multiple of the {} heads as last dimension",
         x.shape().str(), heads);
  }
  if (rows > 0)
    kernels::head_gate(ctx.stream, {x.f32(), gate_pre.f32(), rows, heads, x.dim(1) / heads, ctx.numerics.gates,
                                    ctx.numerics.activations});
}

}  // namespace carousel::ops
