// SPDX-License-Identifier: Apache-2.0
// Functions of one float of a GPU, which formulas that CPUs and GPUs share (core/host_device.h) call by these names.
// cpu/vec_math.h has the same for a vector of a CPU.
#pragma once

#include "carousel/core/sigmoid.h"

namespace carousel::cuda {

/// NaN stays NaN, but in min and max only as the second argument, as on CPUs.
struct FloatMath {
  using V = float;
  __device__ static float set1(float x) { return x; }

  __device__ static float min(float a, float b) { return a < b ? a : b; }
  __device__ static float max(float a, float b) { return a > b ? a : b; }
  /// a * b + c, rounded once.
  __device__ static float fma(float a, float b, float c) { return fmaf(a, b, c); }
  /// a * b, rounded by itself: nvcc fuses a product that is written as one with the addition that takes it.
  __device__ static float product(float a, float b) { return __fmul_rn(a, b); }
  /// |x|.
  __device__ static float size(float x) { return fabsf(x); }
  /// -|x|.
  __device__ static float minus_size(float x) { return -fabsf(x); }
  /// e^x of any x.
  __device__ static float exp(float x) { return expf(x); }
  /// e^-|x|; 0 of |x| from 87.7 on, or smaller than any normal number.
  __device__ static float exp_minus_size(float x) { return expf(-fabsf(x)); }
  __device__ static float tanh(float x) { return tanhf(x); }
  __device__ static float erf(float x) { return erff(x); }
  /// log(1 + x) of x from 0 to 1.
  __device__ static float log1p_unit(float x) { return log1pf(x); }
};

__device__ inline float sigmoid(float x) { return carousel::sigmoid<FloatMath>(x); }

}  // namespace carousel::cuda
