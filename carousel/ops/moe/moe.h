// SPDX-License-Identifier: Apache-2.0
// Mixture of experts with a sigmoid router, as in LFM2-MoE and DeepSeek-V3 (arXiv:2412.19437, sec. 2.1.2): a row is
// computed by the few feed-forward networks the router chooses for it, and no other weight is read.
#pragma once

#include <span>

#include "carousel/ops/ctx.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

struct MoeRouting {
  int64_t top_k = 1;      // experts per row
  bool normalise = true;  // weights are divided by their sum + 1e-6
  float scale = 1.0f;     // then multiplied by this
  Tensor expert_bias;     // [E] f32, added to the scores for the choice alone, or empty
};

struct MoeRoutes {
  Tensor experts;  // [N, top_k] i32, ascending in every row
  Tensor weights;  // [N, top_k] f32
};

/// Who computes a row, and with which weight: s = sigmoid(logits); the top_k of s + expert_bias, the lower index where
/// two are equal; weights are the s of the chosen.
///   logits [N, E] f32; top_k from 1 to E
MoeRoutes moe_route(Ctx& ctx, const Tensor& logits, const MoeRouting& routing);

/// One feed-forward network: down(silu(gate x) * up x).
struct MoeExpert {
  Weight gate, up;  // [F, D]
  Weight down;      // [D, F]
};

/// y = sum over a row's chosen experts of weight * expert(x).
///   x [N, D] f32; every expert of the same F
///   returns [N, D]
/// Rows are gathered by expert, in ascending order: an expert's weights are read once however many rows chose it, and
/// not at all if none did. A row adds its experts in that same order whatever the others chose: its bits are its own.
/// N may be 0.
Tensor moe_experts(Ctx& ctx, const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts);

}  // namespace carousel::ops
