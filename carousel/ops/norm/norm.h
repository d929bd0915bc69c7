// SPDX-License-Identifier: Apache-2.0
// RMSNorm and LayerNorm: on the residual stream, and per head under an output gate.
#pragma once

#include <cstdint>

#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct Norm {
  enum class Kind : uint8_t { kNone, kRms, kLayer };
  Kind kind = Kind::kRms;
  float eps = 1e-6f;
  Tensor weight;            // [D] f32; empty: no scale
  float weight_offset = 0;  // added to the weight before it multiplies: 1 where it is held around zero
  Tensor bias;              // [D] f32; empty: none
};

struct AddNorm {
  Tensor sum;     // [N, D] x + y
  Tensor normed;  // [N, D]
};

/// The residual add and the norm that follows it, in one pass.
///   x, y [N, D] f32; y may be empty (nothing to add: sum is then x itself)
///   rms: v / sqrt(mean(v^2) + eps) * (weight + weight_offset) (+ bias); layer: (v - mean) / sqrt(var + eps) * weight
///   (+ bias), biased variance computed from the deviations; none: the sum itself
/// Throws kShape. N may be 0.
AddNorm add_norm(Ctx& ctx, const Tensor& x, const Tensor& y, const Norm& norm);

/// The gate after the norm of a head: out = (norm(h) + skip_weight * skip) * gate(pre).
struct NormGate {
  enum class Kind : uint8_t { kNone, kSigmoid, kSilu };
  Kind kind = Kind::kNone;
  Columns pre;         // [N, H*Dv] before the gate's function; unused for kNone
  Columns skip;        // [N, H*Dv], or none: nothing is added
  Tensor skip_weight;  // [H*Dv] f32
};
/// Norm over each of H heads, then a gate, such as xLSTM-7B's output gate sigmoid(pre) * norm(h) (arXiv:2503.13427,
/// sec. 3.2).
///   h [N, H*Dv] f32, norm.weight and bias [H*Dv] head-major
///   returns [N, H*Dv]. Throws kShape. N may be 0.
Tensor head_norm(Ctx& ctx, const Tensor& h, int64_t heads, const Norm& norm, const NormGate& gate);

}  // namespace carousel::ops
