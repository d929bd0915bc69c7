// SPDX-License-Identifier: Apache-2.0
// Elementwise gates.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

// kGelu is computed by erf, kGeluTanh by the tanh approximation (arXiv:1606.08415); kRelu2 is relu squared.
enum class Activation : uint8_t { kSilu, kGelu, kRelu, kRelu2, kSigmoid, kSelu, kGeluTanh };

/// Gated units (arXiv:2002.05202): activation(gate) * up.
///   gate_up [N, 2F] f32, gate columns first; returns [N, F]
Tensor gated_unit(Ctx& ctx, const Tensor& gate_up, Activation activation);
/// SwiGLU: silu(gate) * up.
Tensor swiglu(Ctx& ctx, const Tensor& gate_up);

/// cap * tanh(x / cap) of x [N, D] f32, each operation rounded to `dtype`. cap > 0. In place: the result is x itself,
/// but under a tape that needs x a tensor of its own.
Tensor soft_cap(Ctx& ctx, const Tensor& x, float cap, DType dtype = DType::kF32);

/// Every head of x [N, H*d] f32 times the sigmoid of its own gate_pre [N, H] f32. Returns [N, H*d].
Tensor gate_heads(Ctx& ctx, const Tensor& x, const Tensor& gate_pre);
/// max(x, 0), x f32.
Tensor relu(Ctx& ctx, const Tensor& x);
/// x + y, f32 of equal shape.
Tensor add(Ctx& ctx, const Tensor& x, const Tensor& y);

/// The form of `activation` that the profile of `ctx` asks for.
Activation activation_of(const Ctx& ctx, Activation activation);

}  // namespace carousel::ops
