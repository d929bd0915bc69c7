// SPDX-License-Identifier: Apache-2.0
// The CfC recurrence on the GPU, a block per sequence.
#include <algorithm>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/cells/cell_cuda.cuh"
#include "carousel/ops/cells/cfc_cpu.h"
#include "carousel/ops/cells/cfc_formulas.h"

namespace carousel::cuda {
namespace {

using ops::CfcActivation;
using ops::CfcMode;

constexpr int kMostLayers = 8, kMostMaps = 32;

struct Layer {
  int64_t inputs, units;
  int depth, first_map;  // maps of the backbone, the first of them in Call::maps
  ops::CellMapArgs heads;
  const float *w_tau, *a;
};

/// A call. It travels as an argument of the kernel, so its lists are of fixed length.
struct Call {
  View x, y;
  ops::CellBatch batch;
  CfcMode mode;
  CfcActivation activation;
  Layer layers[kMostLayers];
  ops::CellMapArgs maps[kMostMaps];  // of the backbones
  int layer_count;
  int64_t units, inputs, widest;  // of all layers; of the cell; most outputs of a map
  ops::CellMapArgs memory;
  float* scratch;  // [B, stride]: h and c where no state keeps them, the memory's gates, and two buffers of sums
  int64_t stride, padded;
};

/// The state of unit j after time dt, from the heads' sums.
__device__ float new_state(const Call& call, const Layer& layer, const float* sums, float dt, int64_t j) {
  const int64_t stride = layer.heads.outputs / 4;  // of the four heads; a pure cell has one
  const float a1 = sums[j] + layer.heads.bias[j];
  if (call.mode == CfcMode::kPure) return ops::cfc_pure<FloatMath>(layer.a[j], layer.w_tau[j], a1, dt);
  const auto head = [&](int64_t g) { return sums[g * stride + j] + layer.heads.bias[g * stride + j]; };
  return ops::cfc_gated<FloatMath>(call.mode, {a1, head(1), head(2), head(3)}, dt);
}

/// One step of one layer: h [units] becomes the new state. Each barrier lies between writing a buffer and reading it;
/// the last one ends the step, before whose end nobody reads h of the layer again.
__device__ void layer_step(const Call& call, const Layer& layer, const float* input, float* h, float dt, float* sums,
                           float* other) {
  const ops::CellMapArgs& first = layer.depth > 0 ? call.maps[layer.first_map] : layer.heads;
  for (int64_t j = threadIdx.x; j < first.outputs; j += blockDim.x) {
    const float from_input = map_chain(first, j, 0, input, layer.inputs, 0.0f);
    sums[j] = map_chain(first, j, layer.inputs, h, layer.units, from_input);
  }
  __syncthreads();
  for (int l = 0; l < layer.depth; ++l) {
    const ops::CellMapArgs& map = call.maps[layer.first_map + l];
    for (int64_t j = threadIdx.x; j < map.outputs; j += blockDim.x) {
      sums[j] = ops::cfc_activate<FloatMath>(call.activation, sums[j] + map.bias[j]);
    }
    __syncthreads();
    const ops::CellMapArgs& next = l + 1 < layer.depth ? call.maps[layer.first_map + l + 1] : layer.heads;
    for (int64_t j = threadIdx.x; j < next.outputs; j += blockDim.x) {
      other[j] = map_chain(next, j, 0, sums, next.inputs, 0.0f);
    }
    __syncthreads();
    float* const swapped = sums;
    sums = other;
    other = swapped;
  }
  for (int64_t j = threadIdx.x; j < layer.units; j += blockDim.x) h[j] = new_state(call, layer, sums, dt, j);
  __syncthreads();
}

__global__ void __launch_bounds__(kCellThreads) cfc_rows(const __grid_constant__ Call call) {
  const int64_t s = blockIdx.x;
  float* const scratch = call.scratch + s * call.stride;
  const CellRows seq(call.batch, s, scratch, scratch + call.padded);
  if (seq.rows == 0) return;
  float *const gates = scratch + 2 * call.padded, *const sums = scratch + 6 * call.padded;
  for (int64_t j = threadIdx.x; j < 2 * call.padded; j += blockDim.x) scratch[j] = 0;
  __syncthreads();
  for (int64_t n = seq.first; n < seq.first + seq.rows; ++n) {
    const float* const x = static_cast<const float*>(call.x.data) + n * call.x.stride;
    const float dt = call.batch.seqs.dt != nullptr ? call.batch.seqs.dt[n] : 1.0f;
    if (call.memory.outputs > 0) memory_step(call.memory, x, call.inputs, seq, gates);
    const float* input = x;
    float* h = seq.h;
    for (int l = 0; l < call.layer_count; ++l) {
      layer_step(call, call.layers[l], input, h, dt, sums, sums + call.widest);
      input = h;
      h += call.layers[l].units;
    }
    float* const y = static_cast<float*>(call.y.data) + n * call.y.stride;
    const int64_t units = call.layers[call.layer_count - 1].units;
    for (int64_t j = threadIdx.x; j < units; j += blockDim.x) y[j] = input[j];
    __syncthreads();  // y has been read from h
  }
}

Call lay_out(const ops::CfcArgs& args, cpu::Workspace* workspace) {
  const ops::CfcCell& cell = *args.cell;
  Call call = {};
  call.layer_count = static_cast<int>(std::min<int64_t>(ops::cfc_layers(cell), kMostLayers + 1));
  if (call.layer_count > kMostLayers) not_on_device("cfc of more than 8 layers");
  call.x = args.x;
  call.y = args.y;
  call.batch = args.batch;
  call.mode = cell.mode;
  call.activation = args.activation;
  call.inputs = cell.inputs;
  call.memory = ops::cfc_memory(cell);
  int maps = 0;
  for (int l = 0; l < call.layer_count; ++l) {
    const ops::CfcLayerArgs layer = ops::cfc_layer(cell, l);
    if (maps + layer.depth > kMostMaps) not_on_device("cfc of more than 32 maps");
    call.layers[l] = {layer.inputs, layer.units, static_cast<int>(layer.depth), maps, layer.heads,
                      layer.w_tau,  layer.a};
    call.units += layer.units;
    for (int64_t i = 0; i < layer.depth; ++i) call.maps[maps++] = ops::cfc_backbone(cell, l, i);
  }
  call.widest = ops::cfc_widest(cell);
  call.padded = ops::cell_pad(call.units);
  call.stride = 6 * call.padded + 2 * call.widest;
  call.scratch = workspace->take<float>(args.batch.seqs.batch * call.stride);
  return call;
}

}  // namespace

int64_t cfc_workspace(const Stream&, const ops::CfcArgs& args) {
  cpu::Workspace counted;
  lay_out(args, &counted);
  return counted.bytes();
}

void cfc(const Stream& stream, const ops::CfcArgs& args) {
  if (args.kept.h != nullptr) not_on_device("cfc under a tape");
  cpu::Workspace workspace(args.workspace);
  const Call call = lay_out(args, &workspace);
  cfc_rows<<<static_cast<unsigned>(args.batch.seqs.batch), kCellThreads, 0, queue_of(stream)>>>(call);
  launched("cfc");
}

}  // namespace carousel::cuda
