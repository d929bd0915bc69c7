// SPDX-License-Identifier: Apache-2.0
// Functions of a vector of floats, which formulas that CPUs and GPUs share (core/host_device.h) call by these names.
// cuda/float_math.cuh has the same for one float of a GPU.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

struct VecMath {
  using V = Vec;
  static CAROUSEL_INLINE Vec min(Vec a, Vec b) { return CAROUSEL_ISA::min(a, b); }
  static CAROUSEL_INLINE Vec max(Vec a, Vec b) { return CAROUSEL_ISA::max(a, b); }
  static CAROUSEL_INLINE Vec fma(Vec a, Vec b, Vec c) { return CAROUSEL_ISA::fma(a, b, c); }
  /// a * b, rounded by itself.
  static CAROUSEL_INLINE Vec product(Vec a, Vec b) { return a * b; }
  static CAROUSEL_INLINE Vec tanh(Vec x) { return CAROUSEL_ISA::tanh(x); }
  /// log(1 + x) of x from 0 to 1.
  static CAROUSEL_INLINE Vec log1p_unit(Vec x) { return CAROUSEL_ISA::log1p_unit(x); }
  /// e^-|x|.
  static CAROUSEL_INLINE Vec exp_minus_size(Vec x) { return exp_decay(negative_abs(x)); }
};

/// The functions of one lane, as far as loops over floats need them that the compiler turns into vectors.
struct LaneMath {
  using V = float;
  static CAROUSEL_INLINE float product(float a, float b) { return a * b; }
};

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
