// SPDX-License-Identifier: Apache-2.0
// sLSTM: exponential-gated scalar memory with a recurrent matrix per head (xLSTM, arXiv:2405.04517, sec. 2.2).
// slstm.cc checks and packs the recurrent matrices; slstm_cpu.cc divides the work and holds the recurrence.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct SlstmDims {
  int64_t heads = 0;
  int64_t dh = 0;            // width of a head; D = H * dh
  float f_gate_max = 1e30f;  // the forget gate's pre-activation is clamped from above to this
};
/// Operations of the formula over `rows` rows of one sequence, elementwise functions as slstm_cpu.cc computes them: exp
/// three times, log, tanh and the rest.
constexpr double slstm_flops(const SlstmDims& dims, int64_t rows) {
  return static_cast<double>(rows * dims.heads * dims.dh) * (8 * static_cast<double>(dims.dh) + 3 * 24 + 20 + 30 + 18);
}

/// The recurrent matrices of all heads as the kernel streams them: a form (ops/params.h).
class SlstmRecurrent {
 public:
  SlstmRecurrent() = default;
  /// From a tensor as files hold it: [H, dh, 4*dh] f32: head, in, gate * dh + out, gates i f z o. Throws kShape.
  SlstmRecurrent(const Tensor& recurrent, const SlstmDims& dims);
  void pack(const Stream& stream) const;
  void release() { recurrent_ = Tensor(); }

  const SlstmDims& dims() const { return dims_; }
  const Tensor& panels() const { return panels_; }     // as slstm_cpu.h draws them
  const Tensor& master() const { return recurrent_; }  // [H, dh, 4*dh] f32, or empty once released

 private:
  SlstmDims dims_;
  Tensor recurrent_;  // the master
  Tensor panels_;
};

/// The sLSTM cell over every sequence of the batch. Per step and element, with raw_g = wx_g + (R_g y_{t-1})_head:
///   log_f = m + log sigmoid(min(raw_f, f_gate_max));  m' = raw_i where n is 0, else max(raw_i, log_f)
///   i = min(1, e^(raw_i - m'))  f = min(1, e^(log_f - m'))
///   c' = f c + i tanh(raw_z)  n' = f n + i  y' = sigmoid(raw_o) c' / n'
///   wx [N, 4*D] f32, columns i, f, z, o of D = H*dh each, the biases included
///   states per sequence, f32 [D], from index `first` of the block's on: y c n m; read, then replaced in place
///   returns y [N, D]
/// The zero test of n is per element. All heads and sequences advance together; a row's result depends on its own
/// sequence only, and is the same bit for bit however the sequence was cut. N may be 0.
Tensor slstm(Ctx& ctx, const Tensor& wx, const SlstmRecurrent& recurrent, const Seqs& seqs, LayerStates states,
             size_t first = 0);

}  // namespace carousel::ops
