// SPDX-License-Identifier: Apache-2.0
// Closed-form continuous-time cells (Hasani et al., Nature Machine Intelligence 2022; arXiv:2106.13898), plain or
// wired in layers.
#pragma once

#include <vector>

#include "carousel/ops/cells/cell.h"

namespace carousel::ops {

enum class CfcMode : uint8_t { kDefault, kNoGate, kPure };
enum class CfcActivation : uint8_t { kLecunTanh, kTanh, kRelu, kSilu, kGelu, kGeluTanh };

/// One layer: z = [input; its own h] through the backbone, then the heads.
struct CfcLayer {
  int64_t units = 0;
  std::vector<CellMap> backbone;  // each one part
  CellMap heads;                  // parts ff1, ff2, time_a, time_b; of mode pure ff1 alone
  CellRow w_tau, a;               // [units], mode pure
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

}  // namespace carousel::ops
