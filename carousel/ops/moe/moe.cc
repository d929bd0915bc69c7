// SPDX-License-Identifier: Apache-2.0
// A mixture of experts: checks, and the calls of the kernels.
#include "carousel/ops/moe/moe.h"

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::moe";
}  // namespace

MoeRoutes moe_route(Ctx& ctx, const Tensor& logits, const MoeRouting& routing) {
  ctx.without_backward("ops::moe_route");
  check_shape("ops::moe_route", "logits", logits, {-1, -1});
  check_dtype("ops::moe_route", "logits", logits, DType::kF32);
  const int64_t rows = logits.dim(0), experts = logits.dim(1);
  if (routing.top_k < 1 || routing.top_k > experts) {
    fail(ErrorKind::kShape, "ops::moe_route: top_k is {}, expected 1 to the {} experts", routing.top_k, experts);
  }
  const bool biased = routing.expert_bias.defined();
  if (biased) {
    check_shape("ops::moe_route", "expert_bias", routing.expert_bias, {experts});
    check_dtype("ops::moe_route", "expert_bias", routing.expert_bias, DType::kF32);
  }
  const MoeRoutes routes{ctx.arena.empty({rows, routing.top_k}, DType::kI32), ctx.arena.empty({rows, routing.top_k})};
  if (rows == 0) return routes;
  const Tensor scores = ctx.arena.empty({rows, experts});
  kernels::moe_route(ctx.stream,
                     {view(logits), biased ? routing.expert_bias.f32() : nullptr, view(scores), routes.experts.i32(),
                      view(routes.weights), rows, experts, routing.top_k, routing.normalise, routing.scale});
  return routes;
}

Tensor moe_experts(Ctx& ctx, const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts) {
  ctx.without_backward("ops::moe_experts");
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_shape(kWhere, "routes.experts", routes.experts, {x.dim(0), -1});
  check_dtype(kWhere, "routes.experts", routes.experts, DType::kI32);
  check_shape(kWhere, "routes.weights", routes.weights, {x.dim(0), routes.experts.dim(1)});
  if (experts.empty()) fail(ErrorKind::kShape, "{}: got no expert, expected at least one", kWhere);
  const int64_t hidden = experts[0].gate.rows();
  for (const MoeExpert& expert : experts) {
    check_weight(kWhere, 0, &expert.gate, x.dim(1));
    check_weight(kWhere, 1, &expert.up, x.dim(1));
    check_weight(kWhere, 2, &expert.down, hidden);
    if (expert.gate.rows() != hidden || expert.up.rows() != hidden || expert.down.rows() != x.dim(1)) {
      fail(ErrorKind::kShape, "{}: got experts of several shapes, expected {} units as in the first", kWhere, hidden);
    }
  }
  const int64_t rows = x.dim(0), width = x.dim(1);
  if (routes.experts.count() > INT32_MAX) fail(ErrorKind::kShape, "{}: {} rows are too many", kWhere, rows);
  const Tensor y = ctx.arena.zeros({rows, width});
  if (rows == 0) return y;
  MoeExpertsArgs args = {view(x),
                         routes.experts.i32(),
                         view(routes.weights),
                         experts.data(),
                         static_cast<int64_t>(experts.size()),
                         rows,
                         width,
                         routes.experts.dim(1),
                         ctx.numerics.activations,
                         ctx.numerics.gates,
                         view(y)};
  const Tensor workspace = ctx.workspace(kernels::moe_experts_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::moe_experts(ctx.stream, args);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
