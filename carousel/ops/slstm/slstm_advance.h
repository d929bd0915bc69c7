// SPDX-License-Identifier: Apache-2.0
// One step of elements of the sLSTM, from their four sums (arXiv:2405.04517, section 2.2, with its stabiliser).
// Forward, backward and GPU share it. Math: cpu/vec_math.h, cuda/float_math.cuh.
#pragma once

#include "carousel/core/sigmoid.h"

namespace carousel::ops {

/// Elements between steps.
template <class Math>
struct SlstmCell {
  typename Math::V y, c, n, m;
};

/// Elements after a step, and the gates they were advanced with.
template <class Math>
struct SlstmAdvanced {
  SlstmCell<Math> cell;
  typename Math::V i, f;
};

template <class Math, class V>
HOST_DEVICE SlstmAdvanced<Math> slstm_advance(const SlstmCell<Math>& old, V raw_i, V raw_f, V raw_z, V raw_o,
                                              V f_gate_max) {
  const V zero = V{}, one = zero + 1.0f;
  const V capped = Math::min(f_gate_max, raw_f);
  const V log_f = old.m + log_sigmoid<Math>(capped, Math::exp_minus_size(capped));
  // The larger of the two gates is e^0. Where n is 0, i is e^0, since m' is raw_i.
  const V ahead = raw_i - log_f;
  const V e = Math::exp_minus_size(ahead);
  const V f = ahead >= zero ? e : one;
  V i = ahead >= zero ? one : e;
  i = old.n == zero ? one : i;
  SlstmCell<Math> next;
  next.m = old.n == zero ? raw_i : Math::max(raw_i, log_f);
  next.c = Math::fma(f, old.c, i * Math::tanh(raw_z));
  next.n = Math::fma(f, old.n, i);
  // sigmoid(o) c / n, where sigmoid(o) = w / (1 + e^-|o|) with w = 1 or e^-|o|: one division.
  const V o = Math::exp_minus_size(raw_o);
  next.y = (raw_o >= zero ? one : o) * next.c / Math::fma(o, next.n, next.n);
  return {next, i, f};
}

}  // namespace carousel::ops
