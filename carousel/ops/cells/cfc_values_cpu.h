// SPDX-License-Identifier: Apache-2.0
// The activations of a CfC backbone and their slopes.
#pragma once

#include "carousel/cpu/vec.h"
#include "carousel/ops/cells/cfc.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

inline Vec gelu(Vec x) {
  float lane[kLanes];
  store(lane, x);
  for (float& v : lane) v = 0.5f * v * (1.0f + __builtin_erff(v * 0.70710678118654752f));
  return load(lane);
}

inline Vec activate(ops::CfcActivation kind, Vec x) {
  switch (kind) {
    case ops::CfcActivation::kLecunTanh:
      return set1(1.7159f) * tanh(set1(0.666f) * x);
    case ops::CfcActivation::kTanh:
      return tanh(x);
    case ops::CfcActivation::kRelu:
      return max(x, Vec{});
    case ops::CfcActivation::kSilu:
      return x * sigmoid(x);
    case ops::CfcActivation::kGelu:
      return gelu(x);
    case ops::CfcActivation::kGeluTanh:
      return set1(0.5f) * x * (set1(1.0f) + tanh(set1(0.797884560802865356f) * (x + set1(0.044715f) * x * x * x)));
  }
  return x;
}

/// The slope of gelu: the normal distribution's probability below x, plus x times its density.
inline Vec gelu_slope(Vec x) {
  float lane[kLanes];
  store(lane, x);
  for (float& v : lane) v = 0.5f * (1.0f + __builtin_erff(v * 0.70710678118654752f));
  return load(lane) + x * set1(0.39894228040143268f) * exp(set1(-0.5f) * x * x);
}

/// The slope of activate() at x; 0 at the corner of a ReLU.
inline Vec activation_slope(ops::CfcActivation kind, Vec x) {
  const Vec one = set1(1.0f);
  switch (kind) {
    case ops::CfcActivation::kLecunTanh: {
      const Vec t = tanh(set1(0.666f) * x);
      return set1(1.7159f * 0.666f) * fma(-t, t, one);
    }
    case ops::CfcActivation::kTanh: {
      const Vec t = tanh(x);
      return fma(-t, t, one);
    }
    case ops::CfcActivation::kRelu:
      return x > Vec{} ? one : Vec{};
    case ops::CfcActivation::kSilu: {
      const Vec s = sigmoid(x);
      return s * fma(x, one - s, one);
    }
    case ops::CfcActivation::kGelu:
      return gelu_slope(x);
    case ops::CfcActivation::kGeluTanh: {
      const Vec scale = set1(0.797884560802865356f);
      const Vec t = tanh(scale * (x + set1(0.044715f) * x * x * x));
      const Vec inner = scale * fma(set1(3 * 0.044715f) * x, x, one);
      return set1(0.5f) * (one + t + x * fma(-t, t, one) * inner);
    }
  }
  return one;
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
