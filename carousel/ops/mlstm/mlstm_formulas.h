// SPDX-License-Identifier: Apache-2.0
// Formulas of the mLSTM that all its kernels share. Math: cpu/vec_math.h, cuda/float_math.cuh.
#pragma once

#include <cmath>

#include "carousel/ops/gate/activations.h"
#include "carousel/ops/mlstm/mlstm_cpu.h"

namespace carousel::ops {

/// A value in two floats.
HOST_DEVICE void mlstm_split(double x, float* hi, float* lo) {
  *hi = static_cast<float>(x);
  *lo = static_cast<float>(x - static_cast<double>(*hi));
}

/// A gate before its function, soft-capped where the cell has a cap.
template <class Math>
HOST_DEVICE typename Math::V mlstm_capped(typename Math::V pre, float cap) {
  return cap > 0 ? soft_capped<Math>(pre, Math::set1(cap)) : pre;
}

/// A step changes the states of heads by these: the new m, and the weights of the old state and of the row.
template <class Math>
struct MlstmStep {
  typename Math::V m, f_act, i_act;
};
/// i and log_f are the row's gates, capped; m is that before the step.
template <class Math>
HOST_DEVICE MlstmStep<Math> mlstm_step(typename Math::V i, typename Math::V log_f, typename Math::V m) {
  const typename Math::V decayed = log_f + m, next = Math::max(decayed, i);
  return {next, Math::exp(decayed - next), Math::exp(i - next)};
}

/// What h is divided by. `floor`: e^-m, infinite for m < -88, where h is then 0.
HOST_DEVICE float mlstm_denominator(const MlstmArgs& args, float q_dot_n, float floor) {
  const float magnitude = std::fabs(q_dot_n) + args.eps_in_max;  // adding zero changes no bit
  return (magnitude > floor ? magnitude : floor) + args.eps_outside;
}

/// What q and k are multiplied by: one is Dk^-1/2, the other 1, which changes no bit.
struct MlstmScales {
  float q, k;
};
HOST_DEVICE MlstmScales mlstm_scales(const MlstmDims& dims) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(dims.dk));
  return dims.scale_keys ? MlstmScales{1.0f, scale} : MlstmScales{scale, 1.0f};
}

}  // namespace carousel::ops
