// SPDX-License-Identifier: Apache-2.0
// Rounds results as a numeric profile asks. The native profile rounds nothing.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// Rounds x f32 in place to values of `dtype` (to nearest, ties to even). kF32 leaves x alone.
void round_to(Ctx& ctx, const Tensor& x, DType dtype);
/// round_to on columns of a matrix.
void round_to(Ctx& ctx, const Columns& x, DType dtype);
/// round_to on state tensor `spec`, of `count` elements, of every sequence that has rows.
void round_states(Ctx& ctx, const Seqs& seqs, LayerStates states, size_t spec, int64_t count, DType dtype);

/// The result of an op, rounded to the profile's activations.
inline Tensor rounded(Ctx& ctx, Tensor x) {
  if (ctx.numerics.activations != DType::kF32) round_to(ctx, x, ctx.numerics.activations);
  return x;
}

}  // namespace carousel::ops
