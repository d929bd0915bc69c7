// SPDX-License-Identifier: Apache-2.0
// A mixture of experts: checks, and the calls of the kernels.
#include "carousel/ops/moe/moe.h"

#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/moe/moe_backward_cpu.h"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::moe";

/// The choice has no gradient, so the bias that acts on it alone has none.
void record_route(Ctx& ctx, const Tensor& logits, const MoeRouting& routing, const MoeRoutes& routes) {
  const auto backward = [logits, experts = routes.experts, normalise = routing.normalise, scale = routing.scale](
                            Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    const View d_logits = view(grads.write(inner, columns(logits)));
    kernels::moe_route_backward(inner.stream, {view(logits), experts.i32(), view(d[0]), d_logits, logits.dim(0),
                                               logits.dim(1), experts.dim(1), normalise, scale});
  };
  ctx.tape->record(ctx, "ops::moe_route", {logits}, {routes.weights}, backward);
}

MoeExpertsArgs arguments(const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts) {
  MoeExpertsArgs args = {};
  args.x = view(x);
  args.chosen = static_cast<const int32_t*>(routes.experts.raw());
  args.weights = view(routes.weights);
  args.experts = experts.data();
  args.count = static_cast<int64_t>(experts.size());
  args.rows = x.dim(0);
  args.width = x.dim(1);
  args.top_k = routes.experts.dim(1);
  return args;
}

bool needed(const Tape* tape, const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts) {
  if (tape == nullptr) return false;
  if (tape->needs(x) || tape->needs(routes.weights)) return true;
  for (const MoeExpert& expert : experts) {
    for (const Weight* const weight : {&expert.gate, &expert.up, &expert.down}) {
      if (tape->needs(weight->master()) || tape->needs(weight->bias)) return true;
    }
  }
  return false;
}

void check_transposes(std::span<const MoeExpert> experts) {
  for (const MoeExpert& expert : experts) {
    for (const Weight* const weight : {&expert.gate, &expert.up, &expert.down}) {
      if (weight->transpose() != nullptr) continue;
      fail(ErrorKind::kUsage, "{}: a weight [{}, {}] has no transpose, expected a model loaded for training", kWhere,
           weight->rows(), weight->cols());
    }
  }
}

/// gate_up [N * k, 2F] is what the forward kept.
void record_experts(Ctx& ctx, const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts,
                    const Tensor& gate_up, const Tensor& y) {
  check_transposes(experts);
  const auto backward = [x, routes, held = std::vector<MoeExpert>(experts.begin(), experts.end()), gate_up](
                            Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    std::vector<MoeExpertGradients> gradients;
    for (const MoeExpert& expert : held) {
      gradients.push_back({grads.parameter(expert.gate.master()), grads.parameter(expert.up.master()),
                           grads.parameter(expert.down.master()), grads.parameter(expert.gate.bias),
                           grads.parameter(expert.up.bias), grads.parameter(expert.down.bias)});
    }
    MoeExpertsBackwardArgs args = {arguments(x, routes, held), gradients.data(), view(d[0]), {}, {}};
    args.forward.gate_up = view(gate_up);
    if (grads.wants(x)) args.d_x = view(grads.write(inner, columns(x)));
    if (grads.wants(routes.weights)) args.d_weights = view(grads.write(inner, columns(routes.weights)));
    const Tensor workspace = inner.workspace(kernels::moe_experts_backward_workspace(inner.stream, args));
    args.workspace = workspace.raw();
    kernels::moe_experts_backward(inner.stream, args);
  };
  ctx.tape->record_needed(ctx, "ops::moe_experts", {y}, backward);
}

}  // namespace

MoeRoutes moe_route(Ctx& ctx, const Tensor& logits, const MoeRouting& routing) {
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
  kernels::moe_route(ctx.stream, {view(logits), biased ? view(routing.expert_bias).f32() : nullptr, view(scores),
                                  static_cast<int32_t*>(routes.experts.raw()), view(routes.weights), rows, experts,
                                  routing.top_k, routing.normalise, routing.scale});
  if (ctx.tape != nullptr) record_route(ctx, logits, routing, routes);
  return routes;
}

Tensor moe_experts(Ctx& ctx, const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts) {
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
  MoeExpertsArgs args = arguments(x, routes, experts);
  args.activations = ctx.numerics.activations;
  args.gates = ctx.numerics.gates;
  args.y = view(y);
  const bool recorded = needed(ctx.tape, x, routes, experts);
  const Tensor gate_up = recorded ? ctx.arena.empty({routes.experts.count(), 2 * hidden}) : Tensor();
  if (recorded) args.gate_up = view(gate_up);
  const Tensor workspace = ctx.workspace(kernels::moe_experts_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::moe_experts(ctx.stream, args);
  if (recorded) record_experts(ctx, x, routes, experts, gate_up, y);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
