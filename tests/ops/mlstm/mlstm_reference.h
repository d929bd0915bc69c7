// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell in f64, row by row as the paper writes it (arXiv:2405.04517, sec. 2.3), and inputs to compare it on.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "carousel/ops/mlstm/mlstm.h"
#include "tests/ops/machine.h"

namespace carousel {

struct MlstmTensors {
  Tensor q, k, v, i_pre, f_pre;  // [N, H*Dk] x 2, [N, H*Dv], [N, H] x 2
  MlstmTensors rows(int64_t begin, int64_t end) const {
    return {q.rows(begin, end), k.rows(begin, end), v.rows(begin, end), i_pre.rows(begin, end), f_pre.rows(begin, end)};
  }
};

inline MlstmTensors random_inputs(int64_t rows, const ops::MlstmDims& dims, uint64_t seed, float gate_scale = 2.0f) {
  return {random_tensor({rows, dims.heads * dims.dk}, seed), random_tensor({rows, dims.heads * dims.dk}, seed + 1),
          random_tensor({rows, dims.heads * dims.dv}, seed + 2),
          random_tensor({rows, dims.heads}, seed + 3, gate_scale, -1.0f),
          random_tensor({rows, dims.heads}, seed + 4, gate_scale, 3.0f)};
}

inline Tensor run(Ctx& ctx, const MlstmTensors& in, const ops::MlstmDims& dims, const Seqs& seqs, LayerStates states) {
  const ops::MlstmInputs inputs = {columns(in.q), columns(in.k), columns(in.v), columns(in.i_pre), columns(in.f_pre)};
  return ops::mlstm(ctx, inputs, dims, seqs, states);
}

inline MlstmTensors on(Memory& memory, const MlstmTensors& in) {
  return {in.q.to(memory), in.k.to(memory), in.v.to(memory), in.i_pre.to(memory), in.f_pre.to(memory)};
}

inline StateLayout layout_of(const ops::MlstmDims& dims) {
  StateLayout layout;
  layout.add("0", {{"C", DType::kF32, {dims.heads, dims.dk, dims.dv}},
                   {"n", DType::kF32, {dims.heads, dims.dk}},
                   {"m", DType::kF32, {dims.heads}}});
  return layout;
}

/// The same inputs in f64.
struct MlstmInputs64 {
  std::vector<double> q, k, v, i_pre, f_pre;
};
inline MlstmInputs64 in_f64(const MlstmTensors& in) {
  const auto widened = [](const Tensor& x) { return std::vector<double>(x.f32(), x.f32() + x.count()); };
  return {widened(in.q), widened(in.k), widened(in.v), widened(in.i_pre), widened(in.f_pre)};
}

/// The state of one head.
struct MlstmState64 {
  std::vector<double> c, n;  // [Dk, Dv], [Dk]
  double m = 0;
};
inline MlstmState64 zero_state(const ops::MlstmDims& dims) {
  return {std::vector<double>(static_cast<size_t>(dims.dk * dims.dv)),
          std::vector<double>(static_cast<size_t>(dims.dk)), 0};
}

/// h [rows, Dv] of one head; the state is replaced by that after the rows.
inline std::vector<double> mlstm_rows(const MlstmInputs64& in, const ops::MlstmDims& dims, int64_t first, int64_t rows,
                                      int64_t head, MlstmState64* state) {
  const auto dk = static_cast<size_t>(dims.dk), dv = static_cast<size_t>(dims.dv);
  const double scale = 1 / std::sqrt(double(dims.dk)), cap = double{dims.gate_soft_cap};
  const double scale_q = dims.scale_keys ? 1 : scale, scale_k = dims.scale_keys ? scale : 1;
  std::vector<double> h(static_cast<size_t>(rows) * dv);
  for (int64_t t = 0; t < rows; ++t) {
    const auto at = static_cast<size_t>((first + t) * dims.heads + head);
    const double *q = &in.q[at * dk], *k = &in.k[at * dk], *v = &in.v[at * dv];
    const double i = cap > 0 ? cap * std::tanh(in.i_pre[at] / cap) : in.i_pre[at];
    const double f = cap > 0 ? cap * std::tanh(in.f_pre[at] / cap) : in.f_pre[at];
    const double log_f = std::min(f, 0.0) - std::log1p(std::exp(-std::abs(f)));
    const double m = std::max(log_f + state->m, i);
    const double f_act = std::exp(log_f + state->m - m), i_act = std::exp(i - m);
    double* const h_t = &h[static_cast<size_t>(t) * dv];
    double q_dot_n = 0;
    for (size_t d = 0; d < dk; ++d) {
      state->n[d] = f_act * state->n[d] + i_act * scale_k * k[d];
      q_dot_n += scale_q * q[d] * state->n[d];
      for (size_t j = 0; j < dv; ++j) {
        double& c = state->c[d * dv + j];
        c = f_act * c + i_act * scale_k * k[d] * v[j];
        h_t[j] += scale_q * q[d] * c;
      }
    }
    for (size_t j = 0; j < dv; ++j) h_t[j] /= std::max(std::abs(q_dot_n), std::exp(-m)) + double{dims.eps};
    state->m = m;
  }
  return h;
}

}  // namespace carousel
