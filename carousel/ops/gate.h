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

/// In place: every head of x [N, H*d] f32 times the sigmoid of its own gate_pre [N, H] f32.
void head_gate(Ctx& ctx, const Tensor& x, const Tensor& gate_pre);

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
struct HeadGateArgs {
  float* x;               // [N, H*d]
  const float* gate_pre;  // [N, H]
  int64_t rows, heads, dim;
};

}  // namespace carousel::ops

KERNEL(swiglu, ops::SwigluArgs);
KERNEL(soft_cap, ops::SoftCapArgs);
KERNEL(head_gate, ops::HeadGateArgs);
