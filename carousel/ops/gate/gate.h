// SPDX-License-Identifier: Apache-2.0
// Elementwise gates.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

// gelu by erf, or, kGeluTanh, by its tanh approximation (arXiv:1606.08415); relu2: its square
enum class Activation : uint8_t { kSilu, kGelu, kRelu, kRelu2, kSigmoid, kSelu, kGeluTanh };

/// Gated units (arXiv:2002.05202): activation(gate) * up.
///   gate_up [N, 2F] f32, gate columns first; returns [N, F]
Tensor gated_unit(Ctx& ctx, const Tensor& gate_up, Activation activation);
/// SwiGLU: silu(gate) * up.
Tensor swiglu(Ctx& ctx, const Tensor& gate_up);

/// In place: x = cap * tanh(x / cap) on [N, D] f32, each operation rounded to `dtype`. cap > 0.
void soft_cap(Ctx& ctx, const Tensor& x, float cap, DType dtype = DType::kF32);

/// In place: every head of x [N, H*d] f32 times the sigmoid of its own gate_pre [N, H] f32.
void head_gate(Ctx& ctx, const Tensor& x, const Tensor& gate_pre);

/// The activation as the profile of `ctx` has it.
Activation activation_of(const Ctx& ctx, Activation activation);

struct SwigluArgs {
  const float* gate_up;  // [N, 2F]
  float* out;            // [N, F]
  int64_t rows, width;   // N, F
  Activation activation = Activation::kSilu;
  DType gates = DType::kF32, product = DType::kF32;  // what the activation and the product are rounded to
};
/// A unit's arguments as the profile of `ctx` has them.
SwigluArgs gated_unit_args(const Ctx& ctx, const float* gate_up, float* out, int64_t rows, int64_t width,
                           Activation activation = Activation::kSilu);
struct SoftCapArgs {
  float* x;  // [count]
  int64_t count;
  float cap;
  DType dtype = DType::kF32;  // of each operation's result
};
struct HeadGateArgs {
  float* x;               // [N, H*d]
  const float* gate_pre;  // [N, H]
  int64_t rows, heads, dim;
  DType gates = DType::kF32, product = DType::kF32;
};

}  // namespace carousel::ops

KERNEL(swiglu, ops::SwigluArgs);
KERNEL(soft_cap, ops::SoftCapArgs);
KERNEL(head_gate, ops::HeadGateArgs);
