// SPDX-License-Identifier: Apache-2.0
// The derivatives of activations.h, a vector at a time, and the choice of an activation outside a loop.
#pragma once

#include "carousel/cpu/vec_math.h"
#include "carousel/ops/gate/activations.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

template <ops::Activation kActivation>
inline Vec activate(Vec x) {
  return ops::activate<VecMath>(kActivation, x);
}

/// The derivative of activate at x, and its value there.
struct Slope {
  Vec value, slope;
};
template <ops::Activation kActivation>
inline Slope activation_slope(Vec x) {
  const Vec zero = {}, one = set1(1.0f), half = set1(0.5f);
  switch (kActivation) {
    case ops::Activation::kSilu: {
      const Vec s = sigmoid(x);
      return {x * s, ops::silu_slope<VecMath>(x, s)};
    }
    case ops::Activation::kGelu: {
      const Vec below = half * ops::twice_normal_cdf<VecMath>(x);
      return {x * below, fma(x * set1(ops::kNormalDensity), exp(set1(-0.5f) * x * x), below)};
    }
    case ops::Activation::kGeluTanh: {
      const Vec root = set1(ops::kGeluScale), t = tanh(root * ops::gelu_cubic<VecMath>(x));
      const Vec inner = root * fma(set1(3 * ops::kGeluCoefficient) * x, x, one);
      return {half * x * (one + t), half * (one + t) + half * x * fma(-t, t, one) * inner};
    }
    case ops::Activation::kRelu:
      return {max(x, zero), x > zero ? one : zero};
    case ops::Activation::kRelu2:
      return {max(x, zero) * max(x, zero), max(x, zero) + max(x, zero)};
    case ops::Activation::kSigmoid: {
      const Vec s = sigmoid(x);
      return {s, s * (one - s)};
    }
    case ops::Activation::kSelu: {
      const Vec scale = set1(ops::kSeluScale), alpha = set1(ops::kSeluAlpha), e = exp(min(x, zero));
      return {scale * (max(x, zero) + alpha * (e - one)), scale * (x > zero ? one : alpha * e)};
    }
  }
}

/// Calls f(Unit<activation>).
template <ops::Activation kActivation>
struct Unit {
  static constexpr ops::Activation kValue = kActivation;
};
template <class F>
inline void for_activation(ops::Activation activation, F&& f) {
  using ops::Activation;
  switch (activation) {
    case Activation::kSilu:
      return f(Unit<Activation::kSilu>());
    case Activation::kGelu:
      return f(Unit<Activation::kGelu>());
    case Activation::kGeluTanh:
      return f(Unit<Activation::kGeluTanh>());
    case Activation::kRelu:
      return f(Unit<Activation::kRelu>());
    case Activation::kRelu2:
      return f(Unit<Activation::kRelu2>());
    case Activation::kSigmoid:
      return f(Unit<Activation::kSigmoid>());
    case Activation::kSelu:
      return f(Unit<Activation::kSelu>());
  }
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
