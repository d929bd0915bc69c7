// SPDX-License-Identifier: Apache-2.0
// The soft cap and the activations of gated units. Math: cpu/vec_math.h, cuda/float_math.cuh.
#pragma once

#include "carousel/core/sigmoid.h"
#include "carousel/ops/gate/gate.h"

namespace carousel::ops {

/// cap * tanh(x / cap).
template <class Math>
HOST_DEVICE typename Math::V soft_capped(typename Math::V x, typename Math::V cap) {
  return cap * Math::tanh(x / cap);
}

/// x sigmoid(x) (arXiv:1702.03118).
template <class Math>
HOST_DEVICE typename Math::V silu(typename Math::V x) {
  return x * sigmoid<Math>(x);
}

/// The derivative of silu at x, from s = sigmoid(x): (x s)' = s (1 + x (1 - s)).
template <class Math>
HOST_DEVICE typename Math::V silu_slope(typename Math::V x, typename Math::V s) {
  return s * Math::fma(x, Math::set1(1.0f) - s, Math::set1(1.0f));
}

constexpr float kNormalDensity = 0.398942280401432678f;  // of a normal variable at 0: (2 pi)^-1/2
/// Twice the probability that a normal variable lies below x. GELU is x times that probability (arXiv:1606.08415).
template <class Math>
HOST_DEVICE typename Math::V twice_normal_cdf(typename Math::V x) {
  return Math::set1(1.0f) + Math::erf(x * Math::set1(0.707106781186547524f));
}
template <class Math>
HOST_DEVICE typename Math::V gelu(typename Math::V x) {
  return Math::set1(0.5f) * x * twice_normal_cdf<Math>(x);
}

constexpr float kGeluCoefficient = 0.044715f;
constexpr float kGeluScale = 0.797884560802865356f;  // (2 / pi)^1/2

/// GELU by its tanh approximation. `cubic`: x + kGeluCoefficient x^3, whose roundings are the caller's.
template <class Math>
HOST_DEVICE typename Math::V gelu_tanh(typename Math::V x, typename Math::V cubic) {
  return Math::set1(0.5f) * x * (Math::set1(1.0f) + Math::tanh(Math::set1(kGeluScale) * cubic));
}
/// x + kGeluCoefficient x^3, its last product and its sum rounded once.
template <class Math>
HOST_DEVICE typename Math::V gelu_cubic(typename Math::V x) {
  return Math::fma(Math::set1(kGeluCoefficient) * x * x, x, x);
}

constexpr float kSeluScale = 1.0507009873554805f, kSeluAlpha = 1.6732632423543772f;  // arXiv:1706.02515

template <class Math>
HOST_DEVICE typename Math::V activate(Activation activation, typename Math::V x) {
  const typename Math::V zero = Math::set1(0.0f), one = Math::set1(1.0f);
  switch (activation) {
    case Activation::kSilu:
      return silu<Math>(x);
    case Activation::kGelu:
      return gelu<Math>(x);
    case Activation::kGeluTanh:
      return gelu_tanh<Math>(x, gelu_cubic<Math>(x));
    case Activation::kRelu:
      return Math::max(x, zero);
    case Activation::kRelu2:
      return Math::max(x, zero) * Math::max(x, zero);
    case Activation::kSigmoid:
      return sigmoid<Math>(x);
    case Activation::kSelu:
      return Math::set1(kSeluScale) *
             (Math::max(x, zero) + Math::set1(kSeluAlpha) * (Math::exp(Math::min(x, zero)) - one));
  }
  return x;
}

}  // namespace carousel::ops
