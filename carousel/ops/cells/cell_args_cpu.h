// SPDX-License-Identifier: Apache-2.0
// Arguments shared by the kernels of both continuous-time cells.
#pragma once

#include "carousel/ops/cells/cell.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

/// Where the values of an f32 tensor are, on whichever device; null: it is empty.
inline const float* values_of(const Tensor& tensor) { return static_cast<const float*>(tensor.raw()); }

struct CellMapArgs {
  const float* weight = nullptr;    // [inputs, outputs]
  const float* bias = nullptr;      // [outputs]
  int64_t inputs = 0, outputs = 0;  // no outputs: no such map
};
inline CellMapArgs map_args(const CellMap& map) {
  if (!map.defined()) return {};
  return {values_of(map.weight()), values_of(map.bias()), map.inputs(), map.outputs()};
}

/// Where a forward keeps the states that every row left, for its backward: null where it keeps none.
struct CellKept {
  float* h = nullptr;  // [N, H]
  float* c = nullptr;  // [N, H] the LSTM's memory, where there is one
};

/// A forward's rows as its backward reads them.
struct CellHistory {
  View h, c;                // [N, H] the states that every row left; c null where there is no memory
  View h_before, c_before;  // [B, H] the states before the first row; null: zeros
};

/// The ragged batch and its memory.
struct CellBatch {
  SeqsView seqs;
  float* const* h;  // [B] of [H], the cell's state; null: zeros, nothing is kept
  float* const* c;  // [B] of [H], the LSTM's memory, where there is one
};
inline CellBatch cell_batch(const Seqs& seqs, LayerStates states, bool memory) {
  return {seqs.view(), states.empty() ? nullptr : states.fixed(0),
          states.empty() || !memory ? nullptr : states.fixed(1)};
}

}  // namespace carousel::ops
