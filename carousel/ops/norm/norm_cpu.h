// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of the norms.
#pragma once

#include <cmath>

#include "carousel/ops/gate/activations.h"
#include "carousel/ops/kernel.h"
#include "carousel/ops/norm/norm.h"

namespace carousel::ops {

/// A norm's parameters.
struct NormArgs {
  Norm::Kind kind;
  float eps;
  const float* weight;  // [width] or null
  float weight_offset;
  const float* bias;  // [width] or null
};
/// A row's norm: (x - shift) * scale.
struct Affine {
  float shift, scale;
};
/// The share of a normed head that its gate lets through. Math: cpu/vec_math.h, cuda/float_math.cuh.
template <class Math>
HOST_DEVICE typename Math::V norm_gate(NormGate::Kind kind, typename Math::V pre) {
  if (kind == NormGate::Kind::kSigmoid) return sigmoid<Math>(pre);
  return silu<Math>(pre);
}
HOST_DEVICE float norm_scale(float variance, float eps) { return 1.0f / std::sqrt(variance + eps); }

struct AddNormArgs {
  View x;       // [N, D]
  View y;       // [N, D] or null
  View sum;     // [N, D]; x itself where y is null
  View normed;  // [N, D]
  NormArgs norm;
  int64_t rows, width;  // N, D
};
struct HeadNormArgs {
  View h;                    // [N, H*Dv]
  View pre;                  // [N, H*Dv] columns
  View skip;                 // [N, H*Dv] columns, or null
  const float* skip_weight;  // [H*Dv]
  NormGate::Kind gate;
  View out;       // [N, H*Dv]
  NormArgs norm;  // weight and bias have width H*Dv
  int64_t rows, heads, dv;
};
/// Either norm where a profile rounds, or places epsilons elsewhere: one operation after the other, as written.
struct CastNormArgs {
  HeadNormArgs head;  // the norm; a norm of whole rows has 1 head and no gate
  View y;             // [N, H*Dv] added to h, or null
  View sum;           // [N, H*Dv] h + y where there is a y
  Numerics::Norm rule;
  DType activations, gates;
};

}  // namespace carousel::ops

KERNEL(add_norm, ops::AddNormArgs);
KERNEL(head_norm, ops::HeadNormArgs);
PLAIN_KERNEL(cast_norm, ops::CastNormArgs);
