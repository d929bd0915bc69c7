// SPDX-License-Identifier: Apache-2.0
// Functions of one float of a GPU, which formulas that CPUs and GPUs share (core/host_device.h) call by these names.
// cpu/vec_math.h has the same for a vector of a CPU.
#pragma once

namespace carousel::cuda {

struct FloatMath {
  using V = float;
  // NaN as the second argument stays, as on CPUs.
  __device__ static float min(float a, float b) { return a < b ? a : b; }
  __device__ static float max(float a, float b) { return a > b ? a : b; }
  __device__ static float fma(float a, float b, float c) { return fmaf(a, b, c); }
  /// a * b, rounded by itself: nvcc fuses a product that is written as one with the addition that takes it.
  __device__ static float product(float a, float b) { return __fmul_rn(a, b); }
  __device__ static float tanh(float x) { return tanhf(x); }
  /// log(1 + x) of x from 0 to 1.
  __device__ static float log1p_unit(float x) { return log1pf(x); }
  /// e^-|x|.
  __device__ static float exp_minus_size(float x) { return expf(-fabsf(x)); }
};

}  // namespace carousel::cuda
