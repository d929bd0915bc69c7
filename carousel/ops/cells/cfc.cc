// SPDX-License-Identifier: Apache-2.0
// Checks, scratch memory and the lists the kernel walks; cfc_cpu.cc holds the recurrence.
#include "carousel/ops/cells/cfc.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

template <class T>
T* in_arena(Ctx& ctx, Tensor& keep, int64_t count) {
  keep = ctx.arena.empty({std::max<int64_t>(1, count) * static_cast<int64_t>(sizeof(T))}, DType::kU8);
  return static_cast<T*>(keep.raw());
}

const CellMap& first_map(const CfcLayer& layer) {
  return layer.backbone.empty() ? layer.heads : layer.backbone.front();
}

int64_t widest_map(const CfcCell& cell) {
  int64_t widest = 0;
  for (const CfcLayer& layer : cell.layers) {
    widest = std::max(widest, layer.heads.outputs());
    for (const CellMap& map : layer.backbone) widest = std::max(widest, map.outputs());
  }
  return widest;
}

// Layers and, behind each other, the maps of all backbones.
void fill_layers(const CfcCell& cell, CfcLayerArgs* layers, CellMapArgs* maps) {
  int64_t inputs = cell.inputs;
  for (const CfcLayer& layer : cell.layers) {
    *layers++ = {maps,
                 static_cast<int64_t>(layer.backbone.size()),
                 map_args(layer.heads),
                 layer.w_tau.defined() ? layer.w_tau.f32() : nullptr,
                 layer.a.defined() ? layer.a.f32() : nullptr,
                 inputs,
                 layer.units};
    for (const CellMap& map : layer.backbone) *maps++ = map_args(map);
    inputs = layer.units;
  }
}

}  // namespace

int64_t CfcCell::units() const {
  int64_t units = 0;
  for (const CfcLayer& layer : layers) units += layer.units;
  return units;
}

Tensor cfc(Ctx& ctx, const Tensor& x, const CfcCell& cell, const Seqs& seqs, LayerStates states) {
  constexpr const char* kWhere = "ops::cfc";
  CAROUSEL_ASSERT(!cell.layers.empty());
  check_shape(kWhere, "x", x, {seqs.rows(), cell.inputs});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_elapsed(kWhere, seqs);
  const int64_t rows = seqs.rows(), batch = seqs.batch(), units = cell.units();
  Tensor y = ctx.arena.empty({rows, cell.layers.back().units});
  if (rows == 0) return y;

  int64_t depth = 0;
  for (const CfcLayer& layer : cell.layers) depth += static_cast<int64_t>(layer.backbone.size());
  Tensor layer_list, map_list, sequence_list;
  auto* layers = in_arena<CfcLayerArgs>(ctx, layer_list, static_cast<int64_t>(cell.layers.size()));
  fill_layers(cell, layers, in_arena<CellMapArgs>(ctx, map_list, depth));
  auto* sequences = in_arena<CellSequence>(ctx, sequence_list, batch);
  list_sequences(seqs, states, cell.memory.defined(), sequences);

  const Tensor from_x = ctx.arena.empty({rows, first_map(cell.layers.front()).outputs()});
  const Tensor memory_x = cell.memory.defined() ? ctx.arena.empty({rows, cell.memory.outputs()}) : Tensor();
  const int64_t widest = widest_map(cell);
  // h, c, the memory's gates, and two buffers of activations.
  const int64_t stride = 6 * cell_pad(units) + 2 * widest;
  const Tensor scratch = ctx.arena.empty({ctx.stream.pool->threads(), stride});
  const bool by_tanh = cell.activation == CfcActivation::kGelu && ctx.numerics.gelu_tanh;
  const CfcActivation activation = by_tanh ? CfcActivation::kGeluTanh : cell.activation;
  kernels::cfc(ctx.stream, {x.f32(), seqs.dt.defined() ? seqs.dt.f32() : nullptr, from_x.f32(),
                            memory_x.defined() ? memory_x.f32() : nullptr, y.f32(), rows, cell.inputs, units, layers,
                            static_cast<int64_t>(cell.layers.size()), map_args(cell.memory), cell.mode, activation,
                            sequences, batch, scratch.f32(), stride, widest});
  return rounded(ctx, y);
}

}  // namespace carousel::ops
