// SPDX-License-Identifier: Apache-2.0
// A mixture of experts on the GPU. Which expert a row chose is read there alone: nothing waits for it, and nothing that
// is launched or allocated depends on it.
#include "carousel/cpu/workspace.h"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/moe/moe_choice.h"
#include "carousel/ops/moe/moe_tensor_cuda.cuh"
#include "carousel/ops/rows/round_floats_cuda.cuh"

namespace carousel::cuda {
namespace {

/// A thread per row.
__global__ void route(ops::MoeRouteArgs args) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= args.rows) return;
  const float* const logits = static_cast<const float*>(args.logits.data) + n * args.logits.stride;
  float* const s = static_cast<float*>(args.scores.data) + n * args.scores.stride;
  for (int64_t e = 0; e < args.count; ++e) s[e] = sigmoid(logits[e]);
  int32_t* const chosen = args.experts + n * args.top_k;
  float* const weights = static_cast<float*>(args.weights.data) + n * args.top_k;
  ops::choose_experts(s, args.bias, args.count, args.top_k, chosen);
  ops::weigh_experts(s, chosen, args.top_k, args.normalise, args.scale, weights);
}

/// Whether slots are put in the order of their experts: several are then likely to share one.
bool takes_tiles(const ops::MoeExpertsArgs& args) { return args.rows * args.top_k > args.count; }

/// Whether tensor cores take the tiles: rows of weights and of slots are then read in steps of 32 columns.
bool takes_tensor_cores(const Stream& stream, const ops::MoeExpertsArgs& args) {
  const DType dtype = args.experts[0].gate.dtype();
  const bool narrow = dtype == DType::kBF16 || is_block(dtype);
  return stream.compute == Compute::kBF16 && narrow && takes_tiles(args) && args.width % kMmaColumns == 0 &&
         args.experts[0].gate.rows() % kMmaColumns == 0;
}

/// The workspace is asked for before every call, and by loading, which then ends with what this function says.
void check_experts(const ops::MoeExpertsArgs& args) {
  constexpr int64_t kMostColumns = int64_t{kMostBlocks} * kWarps;  // of outputs: blocks lie along one axis of a grid
  if (args.count > kMostExperts) not_on_device("moe_experts with more than 512 experts");
  if (std::max(args.experts[0].gate.rows(), args.width) > kMostColumns) not_on_device("moe_experts this wide");
  for (int64_t e = 0; e < args.count; ++e) {
    const ops::MoeExpert& expert = args.experts[e];
    for (const Weight* const weight : {&expert.gate, &expert.up, &expert.down}) {
      if (weight->dtype() != args.experts[0].gate.dtype()) not_on_device("moe_experts of several types");
      if (weight->bias.defined()) not_on_device("moe_experts with biases");
    }
  }
}

MoeCall lay_out(const Stream& stream, const ops::MoeExpertsArgs& args, cpu::Workspace* workspace) {
  MoeCall call = {};
  call.args = args;
  call.F = args.experts[0].gate.rows();
  const int64_t slots = args.rows * args.top_k;
  call.tile_slots = kTileSlots;
  if (takes_tensor_cores(stream, args)) {
    call.tile_slots = kMmaSlots;
    call.narrow_x = workspace->take<__nv_bfloat16>(args.rows * args.width);
    call.narrow_hidden = workspace->take<__nv_bfloat16>(slots * call.F);
  } else {
    call.hidden = workspace->take<float>(slots * call.F);
  }
  if (!takes_tiles(args)) return call;
  call.outputs = workspace->take<float>(slots * args.width);
  call.order = workspace->take<int32_t>(slots);
  call.first_slots = workspace->take<int32_t>(args.count + 1);
  call.first_tiles = workspace->take<int32_t>(args.count + 1);
  return call;
}

void fill_places(const ops::MoeExpertsArgs& args, ExpertPlace* places) {
  const auto rows = [](const Weight& weight) { return rows_of(weight, "moe_experts of such weights"); };
  for (int64_t e = 0; e < args.count; ++e) {
    const ops::MoeExpert& expert = args.experts[e];
    places[e] = {rows(expert.gate), rows(expert.up), rows(expert.down)};
  }
}

}  // namespace

void moe_route(const Stream& stream, const ops::MoeRouteArgs& args) {
  route<<<static_cast<unsigned>(blocks_of(args.rows, kThreads)), kThreads, 0, queue_of(stream)>>>(args);
  launched("moe_route");
}

int64_t moe_experts_workspace(const Stream& stream, const ops::MoeExpertsArgs& args) {
  check_experts(args);
  cpu::Workspace workspace;
  lay_out(stream, args, &workspace);
  return workspace.bytes();
}

void moe_experts(const Stream& stream, const ops::MoeExpertsArgs& args) {
  if (args.gate_up.data != nullptr) not_on_device("moe_experts under a tape");
  if (args.activations != DType::kF32 || args.gates != DType::kF32) not_on_device("moe_experts, rounded");
  const Gpu::Impl& gpu = gpu_of(stream);
  const DType dtype = args.experts[0].gate.dtype();
  cpu::Workspace workspace(args.workspace);
  MoeCall call = lay_out(stream, args, &workspace);
  call.rounds = rounds(stream, dtype);
  fill_places(args, call.experts);
  const int64_t slots = args.rows * args.top_k;
  const auto grid = [](int64_t across, int64_t down, int64_t each) {
    return dim3(static_cast<unsigned>(across), static_cast<unsigned>(blocks_of(down, each)));
  };
  if (!takes_tiles(args)) {
    for_row(dtype, [&]<class T>(T) {
      launch_early(gpu, expert_units<T, 1>, grid(slots, call.F, kWarps), kThreads, 0, call);
      launch_early(gpu, expert_outputs<T>, grid(args.rows, args.width, kWarps), kThreads, 0, call);
    });
    return;
  }
  const int64_t tiles = slots / call.tile_slots + args.count;  // an expert of s slots has at most s / tile_slots + 1
  launch_early(gpu, order_slots, dim3(1), kOrderThreads, 0, call);
  if (call.narrow_x != nullptr) {
    constexpr int kUnits = kWarps * kMmaUnits;
    round_floats(gpu, args.x.f32(), call.narrow_x, args.rows * args.width);
    for_narrow(dtype, [&]<class T>(T) {
      launch_early(gpu, mma_units<T>, grid(tiles, call.F, kUnits), kThreads, 0, call);
      launch_early(gpu, mma_outputs<T>, grid(tiles, args.width, kUnits), kThreads, 0, call);
    });
  } else {
    for_row(dtype, [&]<class T>(T) {
      launch_early(gpu, expert_units<T, kTileSlots>, grid(tiles, call.F, kWarps), kThreads, 0, call);
      launch_early(gpu, slot_outputs<T>, grid(tiles, args.width, kWarps), kThreads, 0, call);
    });
  }
  launch_early(gpu, add_outputs, grid(args.rows, args.width, kThreads), kThreads, 0, call);
}

}  // namespace carousel::cuda
