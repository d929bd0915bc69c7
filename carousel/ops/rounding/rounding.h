// SPDX-License-Identifier: Apache-2.0
// Results rounded as a numeric profile asks. Native rounds nothing.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// In place: x f32, rounded to the values of `dtype` (to nearest, ties to even). kF32 leaves it alone.
void round_to(Ctx& ctx, const Tensor& x, DType dtype);
/// The same on columns of a matrix.
void round_to(Ctx& ctx, const Columns& x, DType dtype);
/// The same on tensor `spec` of `count` elements of every sequence that has rows.
void round_states(Ctx& ctx, const Seqs& seqs, LayerStates states, size_t spec, int64_t count, DType dtype);

/// The result of an op, rounded to the profile's activations.
inline Tensor rounded(Ctx& ctx, Tensor x) {
  if (ctx.numerics.activations != DType::kF32) round_to(ctx, x, ctx.numerics.activations);
  return x;
}

}  // namespace carousel::ops
