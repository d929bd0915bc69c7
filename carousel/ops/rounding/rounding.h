// SPDX-License-Identifier: Apache-2.0
// Results rounded as a numeric profile asks. Native rounds nothing.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// In place: x f32, rounded to the values of `dtype` (to nearest, ties to even). kF32 leaves it alone.
void round_to(Ctx& ctx, const Tensor& x, DType dtype);
/// The same on rows [rows, width] of a matrix.
void round_to(Ctx& ctx, View x, int64_t rows, int64_t width, DType dtype);

/// The result of an op, rounded to the profile's activations.
inline Tensor rounded(Ctx& ctx, Tensor x) {
  if (ctx.numerics.activations != DType::kF32) round_to(ctx, x, ctx.numerics.activations);
  return x;
}

struct RoundArgs {
  float* x;  // [rows, width], `stride` apart
  int64_t rows, width, stride;
  DType dtype;
};

}  // namespace carousel::ops

KERNEL(round_to, ops::RoundArgs);
