// SPDX-License-Identifier: Apache-2.0
// CfC cells: checks, what a kernel asks of a cell, and the call of the kernel.
#include "carousel/ops/cells/cfc.h"

#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/cells/cell_record.h"
#include "carousel/ops/cells/cfc_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {

int64_t cfc_layers(const CfcCell& cell) { return static_cast<int64_t>(cell.layers.size()); }

CfcLayerArgs cfc_layer(const CfcCell& cell, int64_t l) {
  const CfcLayer& layer = cell.layers[static_cast<size_t>(l)];
  return {l == 0 ? cell.inputs : cell.layers[static_cast<size_t>(l - 1)].units,
          layer.units,
          static_cast<int64_t>(layer.backbone.size()),
          map_args(layer.heads),
          values_of(layer.w_tau.padded()),
          values_of(layer.a.padded())};
}

CellMapArgs cfc_backbone(const CfcCell& cell, int64_t l, int64_t map) {
  return map_args(cell.layers[static_cast<size_t>(l)].backbone[static_cast<size_t>(map)]);
}

CellMapArgs cfc_memory(const CfcCell& cell) { return map_args(cell.memory); }
int64_t cfc_widest(const CfcCell& cell) {
  int64_t widest = 0;
  for (int64_t l = 0; l < cfc_layers(cell); ++l) {
    const CfcLayerArgs layer = cfc_layer(cell, l);
    widest = std::max(widest, layer.heads.outputs);
    for (int64_t i = 0; i < layer.depth; ++i) widest = std::max(widest, cfc_backbone(cell, l, i).outputs);
  }
  return widest;
}

int64_t CfcCell::units() const {
  int64_t units = 0;
  for (const CfcLayer& layer : layers) units += layer.units;
  return units;
}

namespace {

constexpr const char* kWhere = "ops::cfc";

/// A forward that ran, as its backward needs it.
struct Forward {
  Tensor x;
  CfcCell cell;
  CfcActivation activation;
  Seqs seqs;
  LayerStates states;
  CellRecord record;
};

/// A trained parameter of the cell; empty where there is none.
Tensor trained_parameter(const CfcCell& cell, const Tape& tape) {
  Tensor found = cell.memory.trained(tape);
  const auto see = [&](const Tensor& master) {
    if (tape.needs(master)) found = master;
  };
  for (const CfcLayer& layer : cell.layers) {
    for (const CellMap& map : layer.backbone) see(map.trained(tape));
    see(layer.heads.trained(tape));
    see(layer.w_tau.master());
    see(layer.a.master());
  }
  return found;
}

/// The maps in the order of CfcBackwardArgs::d_maps.
std::vector<const CellMap*> maps_of(const CfcCell& cell) {
  std::vector<const CellMap*> maps;
  for (const CfcLayer& layer : cell.layers) {
    for (const CellMap& map : layer.backbone) maps.push_back(&map);
    maps.push_back(&layer.heads);
  }
  maps.push_back(&cell.memory);
  return maps;
}

void cfc_backward(Ctx& ctx, const Forward& forward, const Tensor& d, Grads& grads) {
  const CfcCell& cell = forward.cell;
  const std::vector<const CellMap*> maps = maps_of(cell);
  std::vector<Tensor> packed;
  std::vector<float*> d_maps, d_rows;
  for (const CellMap* map : maps) {
    packed.push_back(map->gradient(ctx, grads));
    d_maps.push_back(packed.back().defined() ? packed.back().f32() : nullptr);
  }
  for (const CfcLayer& layer : cell.layers) {
    d_rows.push_back(grads.parameter(layer.w_tau.master()));
    d_rows.push_back(grads.parameter(layer.a.master()));
  }
  const bool wants_x = grads.wants(forward.x);
  CfcBackwardArgs args = {&cell,
                          view(forward.x),
                          view(d),
                          wants_x ? view(grads.write(ctx, columns(forward.x))) : View(),
                          forward.activation,
                          forward.record.history(),
                          cell_batch(forward.seqs, grads.states(forward.states), cell.memory.defined()),
                          d_maps.data(),
                          d_rows.data(),
                          nullptr};
  const Tensor workspace = ctx.workspace(kernels::cfc_backward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::cfc_backward(ctx.stream, args);
  for (size_t i = 0; i < maps.size(); ++i) maps[i]->replace_gradient(grads, packed[i]);
}

}  // namespace

Tensor cfc(Ctx& ctx, const Tensor& x, const CfcCell& cell, const Seqs& seqs, LayerStates states) {
  CAROUSEL_ASSERT(!cell.layers.empty());
  check_shape(kWhere, "x", x, {seqs.rows(), cell.inputs});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_elapsed(kWhere, seqs);
  Tensor y = ctx.arena.empty({seqs.rows(), cell.layers.back().units});
  if (seqs.rows() == 0) return y;

  const bool by_tanh = cell.activation == CfcActivation::kGelu && ctx.numerics.gelu_tanh;
  const bool has_memory = cell.memory.defined();
  CfcArgs args = {&cell,
                  view(x),
                  view(y),
                  by_tanh ? CfcActivation::kGeluTanh : cell.activation,
                  cell_batch(seqs, states, has_memory),
                  {},
                  nullptr};
  const Tensor parameter = ctx.tape != nullptr ? trained_parameter(cell, *ctx.tape) : Tensor();
  const bool recorded = ctx.tape != nullptr && (ctx.tape->needs(x) || parameter.defined());
  CellRecord record;
  if (recorded) record = CellRecord(ctx, seqs, states, cell.units(), has_memory);
  args.kept = record.kept();
  const Tensor workspace = ctx.workspace(kernels::cfc_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::cfc(ctx.stream, args);
  if (recorded) {
    const Forward forward = {x, cell, args.activation, seqs, states, record};
    const auto backward = [forward](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      cfc_backward(inner, forward, d[0], grads);
    };
    ctx.tape->record(ctx, kWhere, {x, parameter}, {y}, backward, states);
  }
  return rounded(ctx, y);
}

}  // namespace carousel::ops
