// SPDX-License-Identifier: Apache-2.0
// Closed-form continuous-time cells (Hasani et al., Nature Machine Intelligence 2022; arXiv:2106.13898), plain or
// wired in layers.
#pragma once

#include <vector>

#include "carousel/cpu/kernel.h"
#include "carousel/ops/cells/cell.h"

namespace carousel::ops {

enum class CfcMode : uint8_t { kDefault, kNoGate, kPure };
enum class CfcActivation : uint8_t { kLecunTanh, kTanh, kRelu, kSilu, kGelu, kGeluTanh };

/// One layer: z = [input; its own h] through the backbone, then the heads.
struct CfcLayer {
  int64_t units = 0;
  std::vector<CellMap> backbone;  // each one part
  CellMap heads;                  // parts ff1, ff2, time_a, time_b; of mode pure ff1 alone
  Tensor w_tau, a;                // [cell_pad(units)] f32, mode pure
};

struct CfcCell {
  int64_t inputs = 0;            // I
  std::vector<CfcLayer> layers;  // each reads the new h of the one before it
  CfcMode mode = CfcMode::kDefault;
  CfcActivation activation = CfcActivation::kLecunTanh;
  CellMap memory;  // of mixed memory, or empty

  int64_t units() const;  // H, of all layers
};

/// The recurrence over every sequence, dt from seqs.dt (1 where that is empty), per row:
///   default: h' = tanh(a1) (1 - s) + s tanh(a2), s = sigmoid(ta dt + tb)
///   no_gate: h' = tanh(a1) + s tanh(a2)
///   pure:    h' = A - A exp(-dt (|w_tau| + |a1|)) a1
///   x [N, I] f32; state per sequence, f32: 0: h [H], layers end to end; 1, with mixed memory: c [H]; replaced in place
///   returns the last layer's h [N, its units]. Throws kShape. N may be 0.
Tensor cfc(Ctx& ctx, const Tensor& x, const CfcCell& cell, const Seqs& seqs, LayerStates states);

struct CfcLayerArgs {
  const CellMapArgs* backbone;  // [depth]
  int64_t depth;
  CellMapArgs heads;
  const float* w_tau;  // [cell_pad(units)], mode pure
  const float* a;
  int64_t inputs, units;
};
struct CfcArgs {
  const float* x;   // [N, I]
  const float* dt;  // [N] or null
  float* from_x;    // [N, M] scratch: the x part of the first map
  float* memory_x;  // [N, 4 Hp] scratch: that of the mixed memory
  float* y;         // [N, units of the last layer]
  int64_t rows, inputs, units;
  const CfcLayerArgs* layers;  // [layer_count]
  int64_t layer_count;
  CellMapArgs memory;
  CfcMode mode;
  CfcActivation activation;
  const CellSequence* sequences;  // [B]
  int64_t batch;
  float* scratch;  // [threads, scratch_stride]
  int64_t scratch_stride, widest;
};

}  // namespace carousel::ops

KERNEL(cfc, ops::CfcArgs);
