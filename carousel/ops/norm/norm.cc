// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/norm/norm.h"

#include "carousel/core/error.h"

namespace carousel::ops {
namespace {

const float* parameter(const char* where, const char* name, const Tensor& tensor, int64_t width) {
  if (!tensor.defined()) return nullptr;
  check_shape(where, name, tensor, {width});
  check_dtype(where, name, tensor, DType::kF32);
  return tensor.f32();
}

bool casts(const Numerics& numerics) {
  return numerics.activations != DType::kF32 || numerics.gates != DType::kF32 || numerics.norm != Numerics::Norm{};
}

}  // namespace

Tensor around_one(const Tensor& weight) {
  for (int64_t i = 0; weight.raw() != nullptr && i < weight.count(); ++i) weight.f32()[i] += 1.0f;
  return weight;
}

AddNorm add_norm(Ctx& ctx, const Tensor& x, const Tensor& y, const Norm& norm) {
  constexpr const char* kWhere = "ops::add_norm";
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  const int64_t rows = x.dim(0), width = x.dim(1);
  if (y.defined()) {
    check_shape(kWhere, "y", y, {rows, width});
    check_dtype(kWhere, "y", y, DType::kF32);
  }
  const float* weight = parameter(kWhere, "weight", norm.weight, width);
  const float* bias = parameter(kWhere, "bias", norm.bias, width);

  AddNorm out;
  out.sum = y.defined() ? ctx.arena.empty({rows, width}) : x;
  if (norm.kind == Norm::Kind::kNone) {
    out.normed = out.sum;
    if (!y.defined()) return out;
  } else {
    out.normed = ctx.arena.empty({rows, width});
  }
  if (rows == 0 || width == 0) return out;
  if (casts(ctx.numerics)) {
    const HeadNormArgs args = {
        x.f32(), {},    {},        nullptr, HeadGate::Kind::kNone, out.normed.f32(), weight, bias, rows,
        1,       width, norm.kind, norm.eps};
    kernels::cast_norm(ctx.stream, {args, y.defined() ? y.f32() : nullptr, out.sum.f32(), ctx.numerics.norm,
                                    ctx.numerics.activations, ctx.numerics.gates});
    return out;
  }
  kernels::add_norm(ctx.stream, {x.f32(), y.defined() ? y.f32() : nullptr, out.sum.f32(), out.normed.f32(), weight,
                                 bias, rows, width, norm.kind, norm.eps});
  return out;
}

Tensor head_norm(Ctx& ctx, const Tensor& h, int64_t heads, const Norm& norm, const HeadGate& gate) {
  constexpr const char* kWhere = "ops::head_norm";
  check_shape(kWhere, "h", h, {-1, -1});
  check_dtype(kWhere, "h", h, DType::kF32);
  const int64_t rows = h.dim(0), width = h.dim(1);
  if (heads <= 0 || width % heads != 0) {
    fail(ErrorKind::kShape, "{}: h is {}, expected a last dimension that is a multiple of {} heads", kWhere,
         h.shape().str(), heads);
  }
  const bool gated = gate.kind != HeadGate::Kind::kNone;
  if (gated && gate.pre.stride < width) {
    fail(ErrorKind::kShape, "{}: the gate has row stride {}, expected at least {}", kWhere, gate.pre.stride, width);
  }
  const bool skips = gate.skip.data != nullptr;
  if (skips && gate.skip.stride < width) {
    fail(ErrorKind::kShape, "{}: skip has row stride {}, expected at least {}", kWhere, gate.skip.stride, width);
  }
  if (skips) check_shape(kWhere, "skip_weight", gate.skip_weight, {width});
  const float* skip_weight = skips ? parameter(kWhere, "skip_weight", gate.skip_weight, width) : nullptr;
  const float* weight = parameter(kWhere, "weight", norm.weight, width);
  const float* bias = parameter(kWhere, "bias", norm.bias, width);
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0 || width == 0) return out;
  const HeadNormArgs args = {h.f32(), gate.pre, gate.skip, skip_weight,   gate.kind, out.f32(), weight,
                             bias,    rows,     heads,     width / heads, norm.kind, norm.eps};
  if (casts(ctx.numerics)) {
    kernels::cast_norm(ctx.stream,
                       {args, nullptr, nullptr, ctx.numerics.norm, ctx.numerics.activations, ctx.numerics.gates});
  } else {
    kernels::head_norm(ctx.stream, args);
  }
  return out;
}

Tensor gated_head_norm(Ctx& ctx, const Tensor& h, View o_pre, int64_t heads, const Norm& norm) {
  return head_norm(ctx, h, heads, norm, {HeadGate::Kind::kSigmoid, o_pre, {}, {}});
}

}  // namespace carousel::ops
