// SPDX-License-Identifier: Apache-2.0
// RMSNorm and LayerNorm: on the residual stream, and per head under an output gate.
#pragma once

#include <cstdint>

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct Norm {
  enum class Kind : uint8_t { kNone, kRms, kLayer };
  Kind kind = Kind::kRms;
  float eps = 1e-6f;
  Tensor weight;  // [D] f32; empty: no scale
  Tensor bias;    // [D] f32; empty: none
};

/// A norm's weight as files around zero hold it, w, to the 1 + w it multiplies by: in place, nothing on Device::kMeta.
Tensor around_one(const Tensor& weight);

struct AddNorm {
  Tensor sum;     // [N, D] x + y
  Tensor normed;  // [N, D]
};

/// The residual add and the norm that follows it, in one pass.
///   x, y [N, D] f32; y may be empty (nothing to add: sum is then x itself)
///   rms: v / sqrt(mean(v^2) + eps) * weight (+ bias); layer: (v - mean) / sqrt(var + eps) * weight (+ bias), biased
///   variance computed from the deviations; none: the sum itself
/// Throws kShape. N may be 0.
AddNorm add_norm(Ctx& ctx, const Tensor& x, const Tensor& y, const Norm& norm);

/// Norm over each of H heads, then the output gate: sigmoid(o_pre) * norm(h) (xLSTM-7B, arXiv:2503.13427, sec. 3.2).
///   h [N, H*Dv] f32, o_pre [N, H*Dv] columns, norm.weight and bias [H*Dv] head-major
///   returns [N, H*Dv]
Tensor gated_head_norm(Ctx& ctx, const Tensor& h, View o_pre, int64_t heads, const Norm& norm);

/// What follows the norm of a head: out = (norm(h) + skip_weight * skip) * gate(pre). Views are [N, H*Dv] columns.
struct HeadGate {
  enum class Kind : uint8_t { kNone, kSigmoid, kSilu };
  Kind kind = Kind::kNone;
  View pre;            // before the gate's function; unused for kNone
  View skip;           // null data: nothing is added
  Tensor skip_weight;  // [H*Dv] f32
};
/// Norm over each of H heads, and a gate: the general form of gated_head_norm.
Tensor head_norm(Ctx& ctx, const Tensor& h, int64_t heads, const Norm& norm, const HeadGate& gate);

struct AddNormArgs {
  const float* x;       // [N, D]
  const float* y;       // [N, D] or null
  float* sum;           // [N, D]; x itself where y is null
  float* normed;        // [N, D]
  const float* weight;  // [D] or null
  const float* bias;    // [D] or null
  int64_t rows, width;  // N, D
  Norm::Kind kind;
  float eps;
};
struct HeadNormArgs {
  const float* h;            // [N, H*Dv]
  View pre;                  // [N, H*Dv] columns
  View skip;                 // [N, H*Dv] columns, or null data
  const float* skip_weight;  // [H*Dv]
  HeadGate::Kind gate;
  float* out;           // [N, H*Dv]
  const float* weight;  // [H*Dv] or null
  const float* bias;    // [H*Dv] or null
  int64_t rows, heads, dv;
  Norm::Kind kind;
  float eps;
};
/// Either of them where a profile rounds or places epsilons otherwise: one operation after the other, as written.
struct CastNormArgs {
  HeadNormArgs norm;  // pre, skip and gate as there; heads 1 for a norm of whole rows
  const float* y;     // [N, H*Dv] added to h, or null
  float* sum;         // [N, H*Dv] h + y where there is a y
  Numerics::Norm rule;
  DType activations, gates;
};

}  // namespace carousel::ops

KERNEL(add_norm, ops::AddNormArgs);
KERNEL(head_norm, ops::HeadNormArgs);
KERNEL(cast_norm, ops::CastNormArgs);
