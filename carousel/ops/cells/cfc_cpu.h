// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the CfC cell.
#pragma once

#include "carousel/ops/cells/cell_args_cpu.h"
#include "carousel/ops/cells/cfc.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct CfcArgs {
  const CfcCell* cell;
  View x;  // [N, I]
  View y;  // [N, units of the last layer]
  CfcActivation activation;
  CellBatch batch;
  CellKept kept;
  void* workspace;  // scratch memory of cfc_workspace bytes
};

/// d_x is written. Gradients of parameters are added to, each element by one chain over the rows.
struct CfcBackwardArgs {
  const CfcCell* cell;
  View x;    // [N, I]
  View d;    // [N, units of the last layer]
  View d_x;  // [N, I], or null
  CfcActivation activation;
  CellHistory history;
  CellBatch batch;       // the gradients of the states, replaced in place; or null
  float* const* d_maps;  // of every layer: the maps of its backbone, then its heads; then the memory. Packed, or null
  float* const* d_rows;  // of every layer: w_tau and a [units], or null
  void* workspace;       // scratch memory of cfc_backward_workspace bytes
};

/// Layer l of a cell, as a kernel reads it. These functions are out of line, since a kernel's file may not see inside
/// standard containers (docs/design.md).
struct CfcLayerArgs {
  int64_t inputs, units, depth;  // depth: maps of the backbone
  CellMapArgs heads;
  const float* w_tau;  // [cell_pad(units)], mode pure
  const float* a;      // [cell_pad(units)], mode pure
};
int64_t cfc_layers(const CfcCell& cell);
CfcLayerArgs cfc_layer(const CfcCell& cell, int64_t l);
CellMapArgs cfc_backbone(const CfcCell& cell, int64_t l, int64_t map);
CellMapArgs cfc_memory(const CfcCell& cell);
int64_t cfc_widest(const CfcCell& cell);  // outputs of the widest map of a backbone or of heads

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(cfc, ops::CfcArgs);
CPU_KERNEL_WITH_WORKSPACE(cfc_backward, ops::CfcBackwardArgs);
