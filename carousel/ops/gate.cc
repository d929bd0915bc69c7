// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/gate.h"

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
  if (rows > 0 && width > 0) kernels::swiglu(ctx.stream, {gate_up.f32(), out.f32(), rows, width, activation});
  return out;
}

Tensor swiglu(Ctx& ctx, const Tensor& gate_up) { return gated_unit(ctx, gate_up, Activation::kSilu); }

void soft_cap(Ctx& ctx, const Tensor& x, float cap) {
  check_shape("ops::soft_cap", "x", x, {-1, -1});
  check_dtype("ops::soft_cap", "x", x, DType::kF32);
  if (!(cap > 0)) fail(ErrorKind::kInput, "ops::soft_cap: cap is {}, expected a number above 0", cap);
  if (x.count() > 0) kernels::soft_cap(ctx.stream, {x.f32(), x.count(), cap});
}

}  // namespace carousel::ops
