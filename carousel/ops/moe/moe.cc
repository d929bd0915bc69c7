// SPDX-License-Identifier: Apache-2.0
// A mixture of experts: rows grouped by expert, and the products of each group.
#include "carousel/ops/moe/moe.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::moe";
// Rows one expert takes at a time: bounds its activations, and changes no bit since rows are independent.
constexpr int64_t kMaxGroup = 512;

/// Activations of one group, as large as the largest may be: what the router chooses never changes what is allocated.
struct Buffers {
  Tensor x;        // [R, D] gathered rows
  Tensor packed;   // scratch of linear
  Tensor gate_up;  // [R, 2F]
  Tensor hidden;   // [R, F]
  Tensor y;        // [R, D]
};

/// The slots n * k + i of every row and choice, by expert and then by row.
struct Groups {
  Tensor ends;   // [E] i32: expert e has slots[ends[e - 1] .. ends[e]]
  Tensor slots;  // [N * k] i32
};

Groups group_rows(Ctx& ctx, const MoeRoutes& routes, int64_t experts) {
  const int64_t count = routes.experts.count();
  const Groups groups{ctx.arena.zeros({experts}, DType::kI32), ctx.arena.empty({count}, DType::kI32)};
  const int32_t* chosen = routes.experts.i32();  // [N * k]
  if (chosen == nullptr) return groups;          // on meta nobody is chosen
  int32_t* ends = groups.ends.i32();
  for (int64_t slot = 0; slot < count; ++slot) {
    if (chosen[slot] < 0 || chosen[slot] >= experts) {
      fail(ErrorKind::kShape, "{}: route {} chooses expert {}, expected 0 to {}", kWhere, slot, chosen[slot],
           experts - 1);
    }
    ++ends[chosen[slot]];
  }
  int32_t first = 0;
  for (int64_t e = 0; e < experts; ++e) {  // counts become the places to fill, and those, once filled, the ends
    const int32_t rows = ends[e];
    ends[e] = first;
    first += rows;
  }
  for (int64_t slot = 0; slot < count; ++slot) {
    groups.slots.i32()[ends[chosen[slot]]++] = static_cast<int32_t>(slot);
  }
  return groups;
}

/// Adds one expert's share to y for the rows in slots [count].
void run_expert(Ctx& ctx, const MoeExpert& expert, const Tensor& x, const MoeRoutes& routes, const int32_t* slots,
                int64_t count, const Buffers& buffers, const Tensor& y) {
  const int64_t rows = x.dim(0), width = x.dim(1), hidden = expert.gate.rows();
  MoeRowsArgs args = {view(x), view(buffers.x), slots, view(routes.weights), count, width, routes.experts.dim(1)};
  if (count < rows) kernels::moe_gather(ctx.stream, args);
  const Tensor in = count < rows ? buffers.x.rows(0, count) : x;  // every row in its order: nothing to gather
  const Tensor gate_up = buffers.gate_up.rows(0, count);
  linear_into(ctx, in, {&expert.gate, &expert.up}, gate_up, buffers.packed);
  kernels::gated_unit(ctx.stream, gated_unit_args(ctx, view(gate_up), view(buffers.hidden), count, hidden));
  linear_into(ctx, buffers.hidden.rows(0, count), {&expert.down}, buffers.y.rows(0, count), buffers.packed);
  args.from = view(buffers.y);
  args.to = view(y);
  kernels::moe_scatter(ctx.stream, args);
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
  kernels::moe_route(ctx.stream,
                     {view(logits), biased ? routing.expert_bias.f32() : nullptr, view(scores), routes.experts.i32(),
                      view(routes.weights), rows, experts, routing.top_k, routing.normalise, routing.scale});
  return routes;
}

Tensor moe_experts(Ctx& ctx, const Tensor& x, const MoeRoutes& routes, std::span<const MoeExpert> experts) {
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_shape(kWhere, "routes.experts", routes.experts, {x.dim(0), -1});
  check_dtype(kWhere, "routes.experts", routes.experts, DType::kI32);
  check_shape(kWhere, "routes.weights", routes.weights, {x.dim(0), routes.experts.dim(1)});
  if (experts.empty()) fail(ErrorKind::kShape, "{}: got no expert, expected at least one", kWhere);
  const int64_t rows = x.dim(0), width = x.dim(1), hidden = experts[0].gate.rows();
  if (routes.experts.count() > INT32_MAX) fail(ErrorKind::kShape, "{}: {} rows are too many", kWhere, rows);
  const Tensor y = ctx.arena.zeros({rows, width});
  if (rows == 0) return y;

  const Groups groups = group_rows(ctx, routes, static_cast<int64_t>(experts.size()));
  const int64_t group = std::min(rows, kMaxGroup);
  const Buffers buffers{
      ctx.arena.empty({group, width}), ctx.arena.empty({packed_count(group, std::max(width, hidden))}),
      ctx.arena.empty({group, 2 * hidden}), ctx.arena.empty({group, hidden}), ctx.arena.empty({group, width})};
  int64_t begin = 0;
  for (size_t e = 0; e < experts.size() && groups.ends.raw() != nullptr; ++e) {
    const int64_t end = groups.ends.i32()[e];
    for (; begin < end; begin += group) {
      run_expert(ctx, experts[e], x, routes, groups.slots.i32() + begin, std::min(group, end - begin), buffers, y);
    }
    begin = end;
  }
  return rounded(ctx, y);
}

}  // namespace carousel::ops
