// SPDX-License-Identifier: Apache-2.0
// A mixture of experts on the GPU. Which expert a row chose is read there alone: nothing waits for it, and nothing that
// is launched or allocated depends on it. A warp has one unit, or one output, of a row, and streams its rows of
// weights; an expert that several rows chose comes from the second level of cache.
#include "carousel/cpu/workspace.h"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/gate/activations_cuda.cuh"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/weight/elements_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// The top_k indices of the largest s + bias, the lower one where two are equal, in ascending order. NaN still gives
/// distinct indices.
__device__ void choose(const ops::MoeRouteArgs& args, const float* s, int32_t* chosen) {
  const auto key = [&](int64_t e) { return args.bias == nullptr ? s[e] : s[e] + args.bias[e]; };
  const int64_t k = args.top_k;
  for (int64_t e = 0; e < args.count; ++e) {
    int64_t place = e < k ? e : k;
    while (place > 0 && key(e) > key(chosen[place - 1])) {
      if (place < k) chosen[place] = chosen[place - 1];
      --place;
    }
    if (place < k) chosen[place] = static_cast<int32_t>(e);
  }
  for (int64_t i = 1; i < k; ++i) {
    const int32_t value = chosen[i];
    int64_t place = i;
    for (; place > 0 && chosen[place - 1] > value; --place) chosen[place] = chosen[place - 1];
    chosen[place] = value;
  }
}

/// A thread per row.
__global__ void route(ops::MoeRouteArgs args) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= args.rows) return;
  const float* const logits = static_cast<const float*>(args.logits.data) + n * args.logits.stride;
  float* const s = static_cast<float*>(args.scores.data) + n * args.scores.stride;
  for (int64_t e = 0; e < args.count; ++e) s[e] = sigmoid(logits[e]);
  int32_t* const chosen = args.experts + n * args.top_k;
  float* const weights = static_cast<float*>(args.weights.data) + n * args.top_k;
  choose(args, s, chosen);
  float sum = 0;
  for (int64_t i = 0; i < args.top_k; ++i) sum += s[chosen[i]];
  for (int64_t i = 0; i < args.top_k; ++i) {
    weights[i] = (args.normalise ? s[chosen[i]] / (sum + 1e-6f) : s[chosen[i]]) * args.scale;
  }
}

constexpr int64_t kMostExperts = 512;

/// Where the matrices of an expert lie.
struct ExpertPlace {
  const void *gate, *up, *down;  // [F, D], [F, D], [D, F]
};

/// The table of experts goes to the GPU with the launch, so a call copies nothing and can be recorded.
struct MoeCall {
  ops::MoeExpertsArgs args;
  float* hidden;  // [N * k, F]
  int64_t F;
  bool rounds;  // x and units to bf16, before bf16 weights
  ExpertPlace experts[kMostExperts];
};

/// The warp's sum of w x over `count` columns, in one order.
template <class T>
__device__ float dot(const T* w, const float* x, int64_t count, bool rounds) {
  float sum = 0;
  for (int64_t k = threadIdx.x % kWarp; k < count; k += kWarp) {
    const float x_k = rounds ? rounded(x[k]) : x[k];
    sum = fmaf(widened(w[k]), x_k, sum);
  }
  return warp_sum(sum);
}

/// A warp per unit of a slot n * k + i: silu(gate x) * up x.
template <class T>
__global__ void expert_units(const __grid_constant__ MoeCall call) {
  const int64_t f = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp, slot = blockIdx.x, D = call.args.width;
  if (f >= call.F) return;
  const ExpertPlace& expert = call.experts[call.args.chosen[slot]];
  const float* const x = static_cast<const float*>(call.args.x.data) + slot / call.args.top_k * call.args.x.stride;
  const float gate = dot(static_cast<const T*>(expert.gate) + f * D, x, D, call.rounds);
  const float up = dot(static_cast<const T*>(expert.up) + f * D, x, D, call.rounds);
  if (threadIdx.x % kWarp == 0) call.hidden[slot * call.F + f] = gate * sigmoid(gate) * up;
}

/// A warp per output of a row, which adds its experts in their order.
template <class T>
__global__ void expert_outputs(const __grid_constant__ MoeCall call) {
  const int64_t j = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp, n = blockIdx.x, k = call.args.top_k;
  if (j >= call.args.width) return;
  const float* const weights = static_cast<const float*>(call.args.weights.data) + n * k;
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    const ExpertPlace& expert = call.experts[call.args.chosen[n * k + i]];
    const T* const down = static_cast<const T*>(expert.down) + j * call.F;
    sum = fmaf(weights[i], dot(down, call.hidden + (n * k + i) * call.F, call.F, call.rounds), sum);
  }
  if (threadIdx.x % kWarp == 0) static_cast<float*>(call.args.y.data)[n * call.args.y.stride + j] = sum;
}

int64_t hidden_floats(const ops::MoeExpertsArgs& args) { return args.rows * args.top_k * args.experts[0].gate.rows(); }

const void* rows_of(const Weight& weight, DType dtype) {
  if (weight.dtype() != dtype) not_on_device("moe_experts of several types");
  if (weight.bias.defined()) not_on_device("moe_experts with biases");
  return float_rows(weight, "moe_experts of such weights");
}

void fill_places(const ops::MoeExpertsArgs& args, DType dtype, ExpertPlace* places) {
  if (args.count > kMostExperts) not_on_device("moe_experts with more than 512 experts");
  for (int64_t e = 0; e < args.count; ++e) {
    const ops::MoeExpert& expert = args.experts[e];
    places[e] = {rows_of(expert.gate, dtype), rows_of(expert.up, dtype), rows_of(expert.down, dtype)};
  }
}

}  // namespace

void moe_route(const Stream& stream, const ops::MoeRouteArgs& args) {
  route<<<static_cast<unsigned>(blocks_of(args.rows, kThreads)), kThreads, 0, queue_of(stream)>>>(args);
  launched("moe_route");
}

int64_t moe_experts_workspace(const Stream&, const ops::MoeExpertsArgs& args) {
  cpu::Workspace workspace;
  workspace.take<float>(hidden_floats(args));
  return workspace.bytes();
}

void moe_experts(const Stream& stream, const ops::MoeExpertsArgs& args) {
  if (args.gate_up.data != nullptr) not_on_device("moe_experts under a tape");
  if (args.activations != DType::kF32 || args.gates != DType::kF32) not_on_device("moe_experts, rounded");
  const DType dtype = args.experts[0].gate.dtype();
  cpu::Workspace workspace(args.workspace);
  MoeCall call = {
      args, workspace.take<float>(hidden_floats(args)), args.experts[0].gate.rows(), rounds(stream, dtype), {}};
  fill_places(args, dtype, call.experts);
  const dim3 units(static_cast<unsigned>(args.rows * args.top_k), static_cast<unsigned>(blocks_of(call.F, kWarps)));
  const dim3 outputs(static_cast<unsigned>(args.rows), static_cast<unsigned>(blocks_of(args.width, kWarps)));
  for_element(dtype, [&]<class T>(T) {
    expert_units<T><<<units, kThreads, 0, queue_of(stream)>>>(call);
    expert_outputs<T><<<outputs, kThreads, 0, queue_of(stream)>>>(call);
  });
  launched("moe_experts");
}

}  // namespace carousel::cuda
