// SPDX-License-Identifier: Apache-2.0
// Liquid time-constant cells (Hasani et al., AAAI 2021; arXiv:2006.04439): neurons with leaky membranes and synapses
// that open with the potential of their source, solved by a fused implicit-explicit Euler step.
#pragma once

#include <functional>
#include <vector>

#include "carousel/ops/cells/cell.h"

namespace carousel::ops {

/// The parameters of S sources onto N neurons as models hold them, before any constraint.
struct LtcSynapseParams {
  Tensor w, mask, mu, sigma, erev;  // [S, N] f32; a synapse is where the mask is not zero
};

/// S sources onto N neurons, as the kernel reads it: [S, Np] f32 with lanes along the neurons, and for every group of
/// kCellPad neurons the sources that reach any of them. What is masked has weight zero.
struct LtcSynapses {
  LtcSynapses() = default;
  /// Places for their values, and the lists, which depend on the mask alone.
  explicit LtcSynapses(const LtcSynapseParams& params);
  /// `constrain` is P with its bounds.
  void pack(const LtcSynapseParams& params, const std::function<float(float)>& constrain) const;

  Tensor w, we, mu, sigma;       // [S, Np]: masked weight, that times the reversal potential, midpoint, slope
  std::vector<int32_t> begin;    // [groups + 1] into sources
  std::vector<int32_t> sources;  // ascending within a group
};

/// The parameters of a cell as models hold them, before any constraint.
struct LtcParams {
  Tensor gleak, vleak, cm;  // [N] f32
  LtcSynapseParams sensory, recurrent;
  bool implicit = true;  // P is a softplus, else the value itself
};

/// The slopes of the constraints of an LTC cell's parameters, each of its parameter's shape.
struct LtcSlopes {
  Tensor cm, gleak;               // [N]
  Tensor sensory_w, recurrent_w;  // [S, N]
};

/// What the op computes with: P(gleak), P(cm) and P(w), each within the bounds of a profile. A form (ops/params.h) that
/// keeps its masters, since another profile constrains them in another way.
class LtcCell {
 public:
  LtcCell() = default;
  LtcCell(LtcParams params, const Numerics::Ltc& numerics);
  void pack(const Stream& stream) const;
  void release() {}
  /// The same cell under another profile, packed.
  LtcCell under(const Stream& stream, const Numerics::Ltc& numerics) const;
  const LtcParams& masters() const { return params_; }
  LtcSlopes slopes(Ctx& ctx) const;

  int64_t inputs = 0, units = 0, outputs = 0;  // I, N, M: neurons 0..M-1 are read out
  int64_t unfolds = 6;                         // K
  float epsilon = 1e-8f;
  Tensor input_w, input_b;    // [I] f32, or empty
  Tensor output_w, output_b;  // [M] f32, or empty
  Tensor cm, gleak, gvleak;   // [cell_pad(N)] f32: constrained capacitance, leak, and leak times its potential
  LtcSynapses sensory;        // S = I
  LtcSynapses recurrent;      // S = N
  CellMap memory;             // of mixed memory, or empty

 private:
  LtcParams params_;
  Numerics::Ltc numerics_;
};

/// The recurrence over every sequence, dt from seqs.dt (1 where that is empty), per row, with x' = x input_w + input_b:
///   K times: v_j = (c_j v_j + gleak_j vleak_j + sum a_ij erev_ij) / (c_j + gleak_j + sum a_ij + eps), c = cm K / dt,
///   a_ij = w_ij sigmoid(sigma_ij (v_i - mu_ij)) over neurons i, and over inputs with x'. A row with dt <= 0 leaves v
///   alone. A profile may set K, eps and the time of a step (c = cm / step, whatever dt), and choose another solver:
///   cm dv_j/dt = gleak_j (vleak_j - v_j) + sum a_ij (erev_ij - v_j) by Euler's or the classical Runge-Kutta method.
///   x [N, I] f32; state per sequence, f32: 0: v [N]; 1, with mixed memory: c [N]; replaced in place
///   returns v[0..M) output_w + output_b [rows, M]. Throws kShape. No rows are fine.
Tensor ltc(Ctx& ctx, const Tensor& x, const LtcCell& cell, const Seqs& seqs, LayerStates states);

}  // namespace carousel::ops
