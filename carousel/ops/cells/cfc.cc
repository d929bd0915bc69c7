// SPDX-License-Identifier: Apache-2.0
// CfC cells: checks, what a kernel asks of a cell, and the call of the kernel.
#include "carousel/ops/cells/cfc.h"

#include "carousel/core/error.h"
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
          layer.w_tau.padded().defined() ? layer.w_tau.padded().f32() : nullptr,
          layer.a.padded().defined() ? layer.a.padded().f32() : nullptr};
}

CellMapArgs cfc_backbone(const CfcCell& cell, int64_t l, int64_t map) {
  return map_args(cell.layers[static_cast<size_t>(l)].backbone[static_cast<size_t>(map)]);
}

CellMapArgs cfc_memory(const CfcCell& cell) { return map_args(cell.memory); }

int64_t CfcCell::units() const {
  int64_t units = 0;
  for (const CfcLayer& layer : layers) units += layer.units;
  return units;
}

Tensor cfc(Ctx& ctx, const Tensor& x, const CfcCell& cell, const Seqs& seqs, LayerStates states) {
  ctx.without_backward("ops::cfc");
  constexpr const char* kWhere = "ops::cfc";
  CAROUSEL_ASSERT(!cell.layers.empty());
  check_shape(kWhere, "x", x, {seqs.rows(), cell.inputs});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_elapsed(kWhere, seqs);
  Tensor y = ctx.arena.empty({seqs.rows(), cell.layers.back().units});
  if (seqs.rows() == 0) return y;

  const bool by_tanh = cell.activation == CfcActivation::kGelu && ctx.numerics.gelu_tanh;
  CfcArgs args = {&cell,
                  view(x),
                  view(y),
                  by_tanh ? CfcActivation::kGeluTanh : cell.activation,
                  cell_batch(seqs, states, cell.memory.defined()),
                  nullptr};
  const Tensor workspace = ctx.workspace(kernels::cfc_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::cfc(ctx.stream, args);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
