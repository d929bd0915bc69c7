// SPDX-License-Identifier: Apache-2.0
// The recurrence of the sLSTM in f64, slow and obvious: what the tests of ops::slstm compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "carousel/ops/slstm/slstm.h"

namespace carousel {

/// The states of one sequence, [D] each.
struct SlstmState {
  std::vector<double> y, c, n, m;
};

inline double log_sigmoid_f64(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }

/// y [rows, D] of one sequence that starts from `state`, which it replaces. wx [rows, 4*D]; recurrent [H, dh, 4*dh].
inline std::vector<double> slstm_reference(const double* wx, int64_t rows, const std::vector<double>& recurrent,
                                           const ops::SlstmDims& dims, SlstmState& state) {
  const int64_t dh = dims.dh, width = dims.heads * dh;
  std::vector<double> out;
  for (int64_t t = 0; t < rows; ++t) {
    std::vector<double> next(static_cast<size_t>(width));
    for (int64_t e = 0; e < width; ++e) {
      const int64_t h = e / dh, j = e % dh;
      double raw[4];
      for (int64_t g = 0; g < 4; ++g) {
        raw[g] = wx[t * 4 * width + g * width + e];
        for (int64_t d = 0; d < dh; ++d) {
          raw[g] += recurrent[static_cast<size_t>((h * dh + d) * 4 * dh + g * dh + j)] *
                    state.y[static_cast<size_t>(h * dh + d)];
        }
      }
      const auto i = static_cast<size_t>(e);
      const double log_f = state.m[i] + log_sigmoid_f64(std::min(raw[1], double{dims.f_gate_max}));
      const double m_next = state.n[i] == 0 ? raw[0] : std::max(raw[0], log_f);
      const double in = std::min(1.0, std::exp(raw[0] - m_next)), keep = std::min(1.0, std::exp(log_f - m_next));
      state.c[i] = keep * state.c[i] + in * std::tanh(raw[2]);
      state.n[i] = keep * state.n[i] + in;
      state.m[i] = m_next;
      next[i] = state.c[i] / state.n[i] / (1 + std::exp(-raw[3]));
    }
    state.y = next;
    out.insert(out.end(), next.begin(), next.end());
  }
  return out;
}

}  // namespace carousel
