// SPDX-License-Identifier: Apache-2.0
// The activations of gated units in f64.
#pragma once

#include <algorithm>
#include <cmath>

#include "carousel/ops/gate/gate.h"

namespace carousel {

inline double activation_reference(ops::Activation kind, double x) {
  switch (kind) {
    case ops::Activation::kSilu:
      return x / (1 + std::exp(-x));
    case ops::Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case ops::Activation::kRelu:
      return std::max(x, 0.0);
    case ops::Activation::kRelu2:
      return std::max(x, 0.0) * std::max(x, 0.0);
    case ops::Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case ops::Activation::kSelu:
      return 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * std::expm1(x));
    case ops::Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

}  // namespace carousel
