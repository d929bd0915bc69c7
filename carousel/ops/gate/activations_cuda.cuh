// SPDX-License-Identifier: Apache-2.0
// The activations of gated units on the GPU.
#pragma once

#include "carousel/ops/gate/gate.h"

namespace carousel::cuda {

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float activate(ops::Activation activation, float x) {
  switch (activation) {
    case ops::Activation::kSilu:
      return x * sigmoid(x);
    case ops::Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.707106781186547524f));
    case ops::Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.797884560802865356f * fmaf(0.044715f * x * x, x, x)));
    case ops::Activation::kRelu:
      return fmaxf(x, 0.0f);
    case ops::Activation::kRelu2:
      return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
    case ops::Activation::kSigmoid:
      return sigmoid(x);
    case ops::Activation::kSelu:
      return 1.0507009873554805f * (fmaxf(x, 0.0f) + 1.6732632423543772f * (expf(fminf(x, 0.0f)) - 1.0f));
  }
  return x;
}

}  // namespace carousel::cuda
