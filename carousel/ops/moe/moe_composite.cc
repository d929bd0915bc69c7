// SPDX-License-Identifier: Apache-2.0
// A mixture of experts on the CPU: rows grouped by expert, and the products of each group.
#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/rounding/rounding_cpu.h"

namespace carousel::cpu {
namespace {

using ops::LinearArgs;
using ops::MoeExpert;
using ops::MoeExpertsArgs;

// Rows one expert takes at a time: bounds its activations, and changes no bit since rows are independent.
constexpr int64_t kMaxGroup = 512;

/// Scratch of one call, as large as the largest group may need: what the router chooses never changes what is
/// allocated.
struct Scratch {
  Scratch(const Stream& stream, const MoeExpertsArgs& args, Workspace workspace)
      : group(std::min(args.rows, kMaxGroup)), hidden_width(args.experts[0].gate.rows()) {
    ends = workspace.take<int32_t>(args.count);
    slots = workspace.take<int32_t>(args.rows * args.top_k);
    x = workspace.take<float>(group * args.width);
    gate_up = workspace.take<float>(group * 2 * hidden_width);
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
  int64_t group, hidden_width;  // rows of the largest group, F
  int32_t* ends;                // [E]: expert e has slots[ends[e - 1] .. ends[e]]
  int32_t* slots;               // [N * k]: n * k + i of every row and choice, by expert and then by row
  float* x;                     // [group, D] gathered rows
  float* gate_up;               // [group, 2F]
  float* hidden;                // [group, F]
  float* y;                     // [group, D]
  void* product;                // of any of the products
  int64_t bytes;
};

void group_rows(const MoeExpertsArgs& args, const Scratch& scratch) {
  const int64_t count = args.rows * args.top_k;
  int32_t* const ends = scratch.ends;
  std::fill_n(ends, args.count, 0);
  for (int64_t slot = 0; slot < count; ++slot) {
    const int32_t expert = args.chosen[slot];
    if (expert < 0 || expert >= args.count) {
      fail(ErrorKind::kShape, "ops::moe: route {} chooses expert {}, expected 0 to {}", slot, expert, args.count - 1);
    }
    ++ends[expert];
  }
  int32_t first = 0;
  for (int64_t e = 0; e < args.count; ++e) {  // counts become the places to fill, and those, once filled, the ends
    const int32_t rows = ends[e];
    ends[e] = first;
    first += rows;
  }
  for (int64_t slot = 0; slot < count; ++slot) scratch.slots[ends[args.chosen[slot]]++] = static_cast<int32_t>(slot);
}

void product(const Stream& stream, const MoeExpertsArgs& args, LinearArgs call, void* workspace) {
  call.workspace = workspace;
  linear(stream, call);
  if (args.activations != DType::kF32) {
    kernels::round_to(stream, {call.y, call.N, call.y.stride, args.activations});
  }
}

/// Adds one expert's share to y for the rows in slots [count].
void run_expert(const Stream& stream, const MoeExpertsArgs& args, const MoeExpert& expert, const int32_t* slots,
                int64_t count, const Scratch& scratch) {
  const int64_t F = scratch.hidden_width, D = args.width;
  const View gathered = {scratch.x, D}, gate_up = {scratch.gate_up, 2 * F}, hidden = {scratch.hidden, F};
  const View y = {scratch.y, D};
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
  group_rows(args, scratch);
  int64_t begin = 0;
  for (int64_t e = 0; e < args.count; ++e) {
    const int64_t end = scratch.ends[e];
    for (; begin < end; begin += scratch.group) {
      run_expert(stream, args, args.experts[e], scratch.slots + begin, std::min(scratch.group, end - begin), scratch);
    }
    begin = end;
  }
}

}  // namespace carousel::cpu
