// SPDX-License-Identifier: Apache-2.0
// What the forward of a cell keeps for its backward.
#pragma once

#include "carousel/ops/cells/cell_args_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {

struct CellRecord {
  CellRecord() = default;
  /// Places for the states of every row, and copies of those before the first row.
  CellRecord(Ctx& ctx, const Seqs& seqs, const LayerStates& states, int64_t units, bool has_memory)
      : h(ctx.arena.empty({seqs.rows(), units})), h_before(keep_state(ctx, seqs, states, 0, units)) {
    if (!has_memory) return;
    c = ctx.arena.empty({seqs.rows(), units});
    c_before = keep_state(ctx, seqs, states, 1, units);
  }
  CellKept kept() const { return {static_cast<float*>(h.raw()), static_cast<float*>(c.raw())}; }
  CellHistory history() const { return {view(h), view(c), view(h_before), view(c_before)}; }

  Tensor h, c;                // [N, H] the states that every row left; c is the LSTM's memory
  Tensor h_before, c_before;  // [B, H] the states before the first row, or empty
};

}  // namespace carousel::ops
