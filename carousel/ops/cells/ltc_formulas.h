// SPDX-License-Identifier: Apache-2.0
// Formulas of the LTC cell (arXiv:2006.04439) that its kernels share. Math: cpu/vec_math.h,
// cuda/float_math.cuh.
#pragma once

#include "carousel/core/sigmoid.h"
#include "carousel/ops/cells/ltc_cpu.h"

namespace carousel::ops {

/// The sums over a neuron's synapses of a_ij erev_ij and of a_ij, recurrent and sensory ones.
template <class Math>
struct LtcSums {
  typename Math::V current, conductance, sensory_current, sensory_conductance;
};

/// How far a synapse is open at the potential v of its source.
template <class Math>
HOST_DEVICE typename Math::V ltc_opened(typename Math::V sigma, typename Math::V v, typename Math::V mu) {
  return sigmoid<Math>(sigma * (v - mu));
}

/// The potential after one unfold of the semi-implicit solver; c: capacitance over its time.
template <class Math, class V>
HOST_DEVICE V ltc_unfold(V c, V v, V gvleak, V gleak, const LtcSums<Math>& sums, V epsilon) {
  const V above = c * v + gvleak + sums.current + sums.sensory_current;
  const V below = c + gleak + sums.conductance + sums.sensory_conductance;
  return above / (below + epsilon);
}

/// dv/dt.
template <class Math, class V>
HOST_DEVICE V ltc_rate(V cm, V v, V gvleak, V gleak, const LtcSums<Math>& sums) {
  const V open = gleak + sums.conductance + sums.sensory_conductance;
  return (gvleak + sums.current + sums.sensory_current - open * v) / cm;
}

/// The time of one solver step of a row `dt` after the one before.
HOST_DEVICE float ltc_step_time(const LtcArgs& args, float dt) {
  return args.step > 0 ? args.step : dt / static_cast<float>(args.unfolds);
}

/// The classical Runge-Kutta method: what rate i = 0 .. 3 weighs in a sixth of the step, and how far into the step the
/// potential lies that rate i + 1 is taken at.
HOST_DEVICE float runge_kutta_share(int i) { return i == 0 || i == 3 ? 1.0f : 2.0f; }
HOST_DEVICE float runge_kutta_reach(int i) { return i == 2 ? 1.0f : 0.5f; }

/// Value j through a map of one weight and one bias per column, which may be null.
HOST_DEVICE float ltc_mapped(float value, const float* w, const float* b, int64_t j) {
  const float scaled = w != nullptr ? value * w[j] : value;
  return b != nullptr ? scaled + b[j] : scaled;
}

}  // namespace carousel::ops
