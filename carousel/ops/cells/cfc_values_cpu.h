// SPDX-License-Identifier: Apache-2.0
// The slopes of the activations of a CfC backbone, and the functions that its activations are computed by.
#pragma once

#include "carousel/cpu/vec_math.h"
#include "carousel/ops/cells/cfc_formulas.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// GELU takes the erf of <cmath> here, lane by lane, which is closer to its value than that of cpu/vec.h.
struct CfcMath : VecMath {
  static Vec erf(Vec x) {
    float lane[kLanes];
    store(lane, x);
    for (float& v : lane) v = __builtin_erff(v);
    return load(lane);
  }
};

/// The slope of cfc_activate() at x; 0 at the corner of a ReLU.
inline Vec activation_slope(ops::CfcActivation kind, Vec x) {
  const Vec one = set1(1.0f);
  switch (kind) {
    case ops::CfcActivation::kLecunTanh: {
      const Vec t = tanh(set1(ops::kLecunSlope) * x);
      return set1(ops::kLecunScale * ops::kLecunSlope) * fma(-t, t, one);
    }
    case ops::CfcActivation::kTanh: {
      const Vec t = tanh(x);
      return fma(-t, t, one);
    }
    case ops::CfcActivation::kRelu:
      return x > Vec{} ? one : Vec{};
    case ops::CfcActivation::kSilu: {
      const Vec s = sigmoid(x);
      return ops::silu_slope<VecMath>(x, s);
    }
    case ops::CfcActivation::kGelu:
      // The probability below x, plus x times the normal distribution's density.
      return set1(0.5f) * ops::twice_normal_cdf<CfcMath>(x) + x * set1(ops::kNormalDensity) * exp(set1(-0.5f) * x * x);
    case ops::CfcActivation::kGeluTanh: {
      const Vec scale = set1(ops::kGeluScale), t = tanh(scale * ops::cfc_gelu_cubic<VecMath>(x));
      const Vec inner = scale * fma(set1(3 * ops::kGeluCoefficient) * x, x, one);
      return set1(0.5f) * (one + t + x * fma(-t, t, one) * inner);
    }
  }
  return one;
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
