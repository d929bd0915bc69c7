// SPDX-License-Identifier: Apache-2.0
// The gates of a chunk of rows, and the decays that follow from them: the weight of each row in later rows and in the
// next state (xLSTM's stabilised chunkwise form, arXiv:2503.14376).
#pragma once

#include "carousel/ops/mlstm/mlstm_head_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// A chunk's gates: i soft-capped, f soft-capped and then as its log-sigmoid.
struct Gates {
  float i[kL];
  float log_f[kL];
};

/// The decays of one chunk (xLSTM's stabilised chunkwise form): b is the running sum of log f, m_t the running maximum.
struct Decays {
  // The log of the weight of row j in row t is (t_hi[t] + u_hi[j]) + (t_lo[t] + u_lo[j]), where t = b_t - m_t and
  // u = i_j - b_j. Each is held in two floats, because b may be huge (-1e4 per row) where the sum is not.
  float t_hi[kL], t_lo[kL], u_hi[kL], u_lo[kL];
  float carry[kL];  // e^(b_t + m - m_t): weight of the state before in row t; later divided by the row's denominator
  float keep[kL];   // e^(b_L - b_j + i_j - m_next): weight of row j in the next state, 0 beyond the chunk
  float m[kL];      // m_t
  float state;      // e^(b_L + m - m_next): weight of the state before in the next state
};

void read_chunk_gates(const Head& head, int64_t first_row, int64_t count, Gates* gates) {
  const Call& args = *head.args;
  for (int64_t t = 0; t < kL; ++t) {
    const int64_t row = first_row + (t < count ? t : 0);
    gates->i[t] = args.i_pre.f32()[row * args.i_pre.stride + head.h];
    gates->log_f[t] = args.f_pre.f32()[row * args.f_pre.stride + head.h];
  }
  activate_gates(gates->i, gates->log_f, kL, args.dims.gate_soft_cap);
}

void chunk_decays(const Gates& gates, int64_t count, float m_start, Decays* decays) {
  double b[kL];
  double sum_f = 0, m = m_start;
  for (int64_t t = 0; t < count; ++t) {
    sum_f += gates.log_f[t];
    b[t] = sum_f;
    m = m + gates.log_f[t] > gates.i[t] ? m + gates.log_f[t] : gates.i[t];
    decays->m[t] = static_cast<float>(m);
    ops::mlstm_split(b[t] - decays->m[t], &decays->t_hi[t], &decays->t_lo[t]);
    ops::mlstm_split(gates.i[t] - b[t], &decays->u_hi[t], &decays->u_lo[t]);
    decays->carry[t] = static_cast<float>(b[t] + m_start - decays->m[t]);
  }
  const double m_next = decays->m[count - 1];
  for (int64_t j = 0; j < count; ++j) {
    decays->keep[j] = static_cast<float>(sum_f - b[j] + gates.i[j] - m_next);
  }
  for (int64_t j = count; j < kL; ++j) decays->carry[j] = decays->keep[j] = -INFINITY;
  for (int64_t j = 0; j < kL; j += kLanes) {
    store(decays->carry + j, exp(load(decays->carry + j)));
    store(decays->keep + j, exp(load(decays->keep + j)));
  }
  decays->state = decays->carry[count - 1];
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
