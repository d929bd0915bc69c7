// SPDX-License-Identifier: Apache-2.0
// Elementwise gates.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// SwiGLU (arXiv:2002.05202): silu(gate) * up.
///   gate_up [N, 2F] f32, gate columns first; returns [N, F]
Tensor swiglu(Ctx& ctx, const Tensor& gate_up);

/// In place: x = cap * tanh(x / cap) on [N, D] f32. cap > 0.
void soft_cap(Ctx& ctx, const Tensor& x, float cap);

struct SwigluArgs {
  const float* gate_up;  // [N, 2F]
  float* out;            // [N, F]
  int64_t rows, width;   // N, F
};
struct SoftCapArgs {
  float* x;  // [count]
  int64_t count;
  float cap;
};

}  // namespace carousel::ops

KERNEL(swiglu, ops::SwigluArgs);
KERNEL(soft_cap, ops::SoftCapArgs);
