// SPDX-License-Identifier: Apache-2.0
// The activations of gated units and their derivatives, a vector at a time.
#pragma once

#include "carousel/cpu/vec.h"
#include "carousel/ops/gate/gate.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// erf x to within 2e-7 of its value. Up to |x| = 1 the Taylor series, beyond it 1 - e^(-x^2) times a polynomial in
/// 1 / (1 + p |x|) (Abramowitz and Stegun, 7.1.26).
inline Vec erf(Vec x) {
  const Vec magnitude = max(x, -x);
  const Vec x2 = x * x;
  Vec near = set1(-1.0f / 6894720);  // (-1)^n / (n! (2n + 1)), n = 9
  near = fma(near, x2, set1(1.0f / 685440));
  near = fma(near, x2, set1(-1.0f / 75600));
  near = fma(near, x2, set1(1.0f / 9360));
  near = fma(near, x2, set1(-1.0f / 1320));
  near = fma(near, x2, set1(1.0f / 216));
  near = fma(near, x2, set1(-1.0f / 42));
  near = fma(near, x2, set1(0.1f));
  near = fma(near, x2, set1(-1.0f / 3));
  near = set1(1.12837916709551257f) * fma(near * x2, x, x);

  const Vec t = set1(1.0f) / fma(set1(0.3275911f), magnitude, set1(1.0f));
  Vec far = set1(1.061405429f);
  far = fma(far, t, set1(-1.453152027f));
  far = fma(far, t, set1(1.421413741f));
  far = fma(far, t, set1(-0.284496736f));
  far = fma(far, t, set1(0.254829592f));
  far = set1(1.0f) - far * t * exp(-x2);
  return magnitude < set1(1.0f) ? near : x < Vec{} ? -far : far;
}

template <ops::Activation kActivation>
inline Vec activate(Vec x) {
  const Vec zero = {}, one = set1(1.0f);
  switch (kActivation) {
    case ops::Activation::kSilu:
      return x * sigmoid(x);
    case ops::Activation::kGelu:
      return set1(0.5f) * x * (one + erf(x * set1(0.707106781186547524f)));
    case ops::Activation::kGeluTanh:
      return set1(0.5f) * x * (one + tanh(set1(0.797884560802865356f) * fma(set1(0.044715f) * x * x, x, x)));
    case ops::Activation::kRelu:
      return max(x, zero);
    case ops::Activation::kRelu2:
      return max(x, zero) * max(x, zero);
    case ops::Activation::kSigmoid:
      return sigmoid(x);
    case ops::Activation::kSelu:
      return set1(1.0507009873554805f) * (max(x, zero) + set1(1.6732632423543772f) * (exp(min(x, zero)) - one));
  }
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
      return {x * s, s * fma(x, one - s, one)};
    }
    case ops::Activation::kGelu: {
      const Vec below = half * (one + erf(x * set1(0.707106781186547524f)));  // of a normal variable, the share
      return {x * below, fma(x * set1(0.398942280401432678f), exp(set1(-0.5f) * x * x), below)};
    }
    case ops::Activation::kGeluTanh: {
      const Vec root = set1(0.797884560802865356f), cubic = set1(0.044715f);
      const Vec t = tanh(root * fma(cubic * x * x, x, x));
      const Vec inner = root * fma(set1(3 * 0.044715f) * x, x, one);
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
      const Vec scale = set1(1.0507009873554805f), alpha = set1(1.6732632423543772f), e = exp(min(x, zero));
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
