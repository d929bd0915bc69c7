// SPDX-License-Identifier: Apache-2.0
// Elementwise gates.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

enum class Activation : uint8_t { kSilu, kGelu, kRelu, kRelu2, kSigmoid, kSelu };  // gelu by erf; relu2: its square

/// Gated units (arXiv:2002.05202): activation(gate) * up.
///   gate_up [N, 2F] f32, gate columns first; returns [N, F]
Tensor gated_unit(Ctx& ctx, const Tensor& gate_up, Activation activation);
/// SwiGLU: silu(gate) * up.
Tensor swiglu(Ctx& ctx, const Tensor& gate_up);

/// In place: x = cap * tanh(x / cap) on [N, D] f32. cap > 0.
void soft_cap(Ctx& ctx, const Tensor& x, float cap);

struct SwigluArgs {
  const float* gate_up;  // [N, 2F]
  float* out;            // [N, F]
  int64_t rows, width;   // N, F
  Activation activation = Activation::kSilu;
};
struct SoftCapArgs {
  float* x;  // [count]
  int64_t count;
  float cap;
};

}  // namespace carousel::ops

KERNEL(swiglu, ops::SwigluArgs);
KERNEL(soft_cap, ops::SoftCapArgs);
