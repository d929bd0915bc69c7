// SPDX-License-Identifier: Apache-2.0
// Formulas of the CfC cell (cfc.h) that its kernels share. Math: cpu/vec_math.h, cuda/float_math.cuh.
#pragma once

#include "carousel/ops/cells/cfc.h"
#include "carousel/ops/gate/activations.h"

namespace carousel::ops {

constexpr float kLecunScale = 1.7159f, kLecunSlope = 0.666f;

/// gelu_cubic() of a backbone's GELU by tanh. A CPU rounds every product of it and then the sum.
template <class Math>
HOST_DEVICE typename Math::V cfc_gelu_cubic(typename Math::V x) {
  return x + Math::set1(kGeluCoefficient) * x * x * x;
}

/// The activation of a backbone.
template <class Math>
HOST_DEVICE typename Math::V cfc_activate(CfcActivation activation, typename Math::V x) {
  switch (activation) {
    case CfcActivation::kLecunTanh:
      return Math::set1(kLecunScale) * Math::tanh(Math::set1(kLecunSlope) * x);
    case CfcActivation::kTanh:
      return Math::tanh(x);
    case CfcActivation::kRelu:
      return activate<Math>(Activation::kRelu, x);
    case CfcActivation::kSilu:
      return silu<Math>(x);
    case CfcActivation::kGelu:
      return gelu<Math>(x);
    case CfcActivation::kGeluTanh:
      return gelu_tanh<Math>(x, cfc_gelu_cubic<Math>(x));
  }
  return x;
}

/// exp(-dt (|w_tau| + |a1|)), mode pure.
template <class Math>
HOST_DEVICE typename Math::V cfc_decay(typename Math::V w_tau, typename Math::V a1, typename Math::V dt) {
  return Math::exp(-dt * (Math::size(w_tau) + Math::size(a1)));
}
/// The new state in mode pure.
template <class Math>
HOST_DEVICE typename Math::V cfc_pure(typename Math::V a, typename Math::V w_tau, typename Math::V a1,
                                      typename Math::V dt) {
  return a - a * cfc_decay<Math>(w_tau, a1, dt) * a1;
}

/// The sums of the four heads, biases added.
template <class Math>
struct CfcHeads {
  typename Math::V ff1, ff2, time_a, time_b;
};
/// How far time has gone from ff1 to ff2.
template <class Math>
HOST_DEVICE typename Math::V cfc_time_gate(typename Math::V time_a, typename Math::V time_b, typename Math::V dt) {
  return sigmoid<Math>(time_a * dt + time_b);
}
/// The new state in the other modes.
template <class Math>
HOST_DEVICE typename Math::V cfc_gated(CfcMode mode, const CfcHeads<Math>& heads, typename Math::V dt) {
  const typename Math::V s = cfc_time_gate<Math>(heads.time_a, heads.time_b, dt), first = Math::tanh(heads.ff1);
  const typename Math::V after = s * Math::tanh(heads.ff2);
  return mode == CfcMode::kNoGate ? first + after : first * (Math::set1(1.0f) - s) + after;
}

}  // namespace carousel::ops
