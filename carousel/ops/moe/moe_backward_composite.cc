// SPDX-License-Identifier: Apache-2.0
// The gradient of a mixture of experts on the CPU: the groups and the order of the forward, and for each group the
// products of its gradient. The rows of an expert are ascending, so the gradients of its weights are chains over them.
#include <algorithm>

#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/moe/moe_backward_cpu.h"
#include "carousel/ops/moe/moe_groups_composite.h"
#include "carousel/ops/tape_cpu.h"

namespace carousel::cpu {
namespace {

using ops::LinearDwArgs;
using ops::LinearDxArgs;
using ops::MoeExpert;
using Args = ops::MoeExpertsBackwardArgs;

/// Scratch of one call, as large as the largest group may need.
struct Scratch {
  Scratch(const Stream& stream, const Args& args, Workspace workspace)
      : groups(args.forward.count, args.forward.rows * args.forward.top_k, &workspace),
        group(std::min(args.forward.rows, kMaxGroup)),
        D(args.forward.width),
        F(args.forward.experts[0].gate.rows()) {
    x = workspace.take<float>(group * D);
    d_y = workspace.take<float>(group * D);
    d_x = workspace.take<float>(group * D);
    hidden = workspace.take<float>(group * F);
    d_hidden = workspace.take<float>(group * F);
    d_gate_up = workspace.take<float>(group * 2 * F);
    rounds = args.forward.experts[0].gate.dtype() == DType::kBF16;
    int64_t product_bytes = std::max(linear_dw_workspace(stream, {{}, {}, nullptr, group, D, F, nullptr, rounds}),
                                     linear_dw_workspace(stream, {{}, {}, nullptr, group, F, D, nullptr, rounds}));
    for (int64_t e = 0; e < args.forward.count; ++e) {
      const MoeExpert& expert = args.forward.experts[e];
      const Weight* const pair[] = {&expert.gate, &expert.up};
      const Weight* const down = &expert.down;
      product_bytes = std::max({product_bytes, linear_dx_workspace(stream, {{}, pair, 2, group, D, {}}),
                                linear_dx_workspace(stream, {{}, &down, 1, group, F, {}})});
    }
    product = workspace.take<char>(product_bytes);
    bytes = workspace.bytes();
  }
  MoeGroups groups;
  int64_t group, D, F;       // rows of the largest group, and the widths
  float *x, *d_y, *d_x;      // [group, D] gathered rows, and what is to be added to d_x
  float *hidden, *d_hidden;  // [group, F]
  float* d_gate_up;          // [group, 2F]
  void* product;             // of any of the products
  bool rounds;               // products are in bf16
  int64_t bytes;
};

/// What a weight and its bias get from `count` rows.
void add_weight(const Stream& stream, const Scratch& scratch, LinearDwArgs product, float* d_bias) {
  product.workspace = scratch.product;
  product.rounds = scratch.rounds;
  if (product.d_w != nullptr) linear_dw(stream, product);
  if (d_bias != nullptr) kernels::sum_rows(stream, {product.d_y, d_bias, product.N, product.M});
}

void run_expert(const Stream& stream, const Args& args, int64_t e, int64_t begin, int64_t count,
                const Scratch& scratch) {
  const int64_t D = scratch.D, F = scratch.F, k = args.forward.top_k;
  const MoeExpert& expert = args.forward.experts[e];
  const ops::MoeExpertGradients& gradients = args.gradients[e];
  const int32_t* const slots = scratch.groups.slots + begin;
  const View gate_up = {args.forward.gate_up.f32() + begin * 2 * F, 2 * F};
  const View x = {scratch.x, D}, d_y = {scratch.d_y, D}, hidden = {scratch.hidden, F}, d_hidden = {scratch.d_hidden, F};
  const View d_gate = {scratch.d_gate_up, 2 * F}, d_up = {scratch.d_gate_up + F, 2 * F};
  kernels::moe_gather(stream, {args.d_y, d_y, slots, {}, count, D, k});
  kernels::gated_unit(stream, {gate_up, hidden, count, F});
  const Weight* const down = &expert.down;
  linear_dx(stream, {d_y, &down, 1, count, F, d_hidden, scratch.product});
  const float* const bias = down->bias.defined() ? down->bias.f32() : nullptr;
  kernels::moe_weigh(stream, {d_y, d_hidden, hidden, bias, slots, args.forward.weights, args.d_weights, count, D, F});
  add_weight(stream, scratch, {d_y, hidden, gradients.down, count, D, F}, gradients.down_bias);
  kernels::gated_unit_backward(stream, {gate_up, d_hidden, d_gate, count, F, ops::Activation::kSilu});
  kernels::moe_gather(stream, {args.forward.x, x, slots, {}, count, D, k});
  add_weight(stream, scratch, {d_gate, x, gradients.gate, count, F, D}, gradients.gate_bias);
  add_weight(stream, scratch, {d_up, x, gradients.up, count, F, D}, gradients.up_bias);
  if (args.d_x.data == nullptr) return;
  const Weight* const pair[] = {&expert.gate, &expert.up};
  const View d_x = {scratch.d_x, D};
  linear_dx(stream, {d_gate, pair, 2, count, D, d_x, scratch.product});
  kernels::moe_scatter(stream, {d_x, args.d_x, slots, {}, count, D, k});
}

}  // namespace

int64_t moe_experts_backward_workspace(const Stream& stream, const Args& args) {
  return Scratch(stream, args, {}).bytes;
}

void moe_experts_backward(const Stream& stream, const Args& args) {
  const Scratch scratch(stream, args, Workspace(args.workspace));
  const int64_t rows = args.forward.rows, experts = args.forward.count;
  if (args.d_x.data != nullptr) kernels::fill_zero(stream, {{}, args.d_x, rows, scratch.D});
  scratch.groups.fill(args.forward.chosen, rows * args.forward.top_k, experts);
  scratch.groups.each(
      experts, [&](int64_t e, int64_t begin, int64_t count) { run_expert(stream, args, e, begin, count, scratch); });
}

}  // namespace carousel::cpu
