// SPDX-License-Identifier: Apache-2.0
// A mixture of experts on the CPU: rows grouped by expert, and the products of each group.
#include <algorithm>

#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/moe/moe_groups_composite.h"
#include "carousel/ops/rounding/rounding_cpu.h"

namespace carousel::cpu {
namespace {

using ops::LinearArgs;
using ops::MoeExpert;
using ops::MoeExpertsArgs;

/// Scratch of one call, as large as the largest group may need: what the router chooses never changes what is
/// allocated.
struct Scratch {
  Scratch(const Stream& stream, const MoeExpertsArgs& args, Workspace workspace)
      : groups(args.count, args.rows * args.top_k, &workspace),
        group(std::min(args.rows, kMaxGroup)),
        hidden_width(args.experts[0].gate.rows()) {
    x = workspace.take<float>(group * args.width);
    gate_up = args.gate_up.data == nullptr ? workspace.take<float>(group * 2 * hidden_width) : nullptr;
    hidden = workspace.take<float>(group * hidden_width);
    y = workspace.take<float>(group * args.width);
    int64_t product_bytes = 0;
    for (int64_t e = 0; e < args.count; ++e) {
      const MoeExpert& expert = args.experts[e];
      const Weight* const pair[] = {&expert.gate, &expert.up};
      const Weight* const down = &expert.down;
      product_bytes = std::max({product_bytes, linear_workspace(stream, {{}, pair, 2, group, args.width, {}}),
                                linear_workspace(stream, {{}, &down, 1, group, hidden_width, {}})});
    }
    product = workspace.take<char>(product_bytes);
    bytes = workspace.bytes();
  }
  MoeGroups groups;
  int64_t group, hidden_width;  // rows of the largest group, F
  float* x;                     // [group, D] gathered rows
  float* gate_up;               // [group, 2F], or null: they are kept
  float* hidden;                // [group, F]
  float* y;                     // [group, D]
  void* product;                // of any of the products
  int64_t bytes;
};

void product(const Stream& stream, const MoeExpertsArgs& args, LinearArgs call, void* workspace) {
  call.workspace = workspace;
  linear(stream, call);
  if (args.activations != DType::kF32) {
    kernels::round_to(stream, {call.y, call.N, call.y.stride, args.activations});
  }
}

/// Adds the share of expert e to y for `count` rows, whose slots begin at `begin`.
void run_expert(const Stream& stream, const MoeExpertsArgs& args, int64_t e, int64_t begin, int64_t count,
                const Scratch& scratch) {
  const MoeExpert& expert = args.experts[e];
  const int32_t* const slots = scratch.groups.slots + begin;
  const int64_t F = scratch.hidden_width, D = args.width;
  const View gathered = {scratch.x, D}, hidden = {scratch.hidden, F};
  const View y = {scratch.y, D};
  const View gate_up = {scratch.gate_up == nullptr ? args.gate_up.f32() + begin * 2 * F : scratch.gate_up, 2 * F};
  const bool all = count == args.rows;  // every row in its order: nothing to gather
  if (!all) kernels::moe_gather(stream, {args.x, gathered, slots, args.weights, count, D, args.top_k});
  const Weight* const pair[] = {&expert.gate, &expert.up};
  const Weight* const down = &expert.down;
  product(stream, args, {all ? args.x : gathered, pair, 2, count, D, gate_up}, scratch.product);
  kernels::gated_unit(stream, {gate_up, hidden, count, F, ops::Activation::kSilu, args.gates, args.activations});
  product(stream, args, {hidden, &down, 1, count, F, y}, scratch.product);
  kernels::moe_scatter(stream, {y, args.y, slots, args.weights, count, D, args.top_k});
}

}  // namespace

int64_t moe_experts_workspace(const Stream& stream, const MoeExpertsArgs& args) {
  return Scratch(stream, args, {}).bytes;
}

void moe_experts(const Stream& stream, const MoeExpertsArgs& args) {
  const Scratch scratch(stream, args, Workspace(args.workspace));
  scratch.groups.fill(args.chosen, args.rows * args.top_k, args.count);
  scratch.groups.each(
      args.count, [&](int64_t e, int64_t begin, int64_t count) { run_expert(stream, args, e, begin, count, scratch); });
}

}  // namespace carousel::cpu
