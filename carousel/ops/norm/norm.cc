// SPDX-License-Identifier: Apache-2.0
// The norms: checks, and the calls of the kernels.
#include "carousel/ops/norm/norm.h"

#include "carousel/core/error.h"
#include "carousel/ops/norm/norm_cpu.h"

namespace carousel::ops {
namespace {

const float* parameter(const char* where, const char* name, const Tensor& tensor, int64_t width) {
  if (!tensor.defined()) return nullptr;
  check_shape(where, name, tensor, {width});
  check_dtype(where, name, tensor, DType::kF32);
  return tensor.f32();
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

}  // namespace

AddNorm add_norm(Ctx& ctx, const Tensor& x, const Tensor& y, const Norm& norm) {
  ctx.without_backward("ops::add_norm");
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
  return out;
}

Tensor head_norm(Ctx& ctx, const Tensor& h, int64_t heads, const Norm& norm, const NormGate& gate) {
  ctx.without_backward("ops::head_norm");
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
  return out;
}

}  // namespace carousel::ops
