// SPDX-License-Identifier: Apache-2.0
// Functions of a vector of floats, which formulas that CPUs and GPUs share (core/host_device.h) call by these names.
// cuda/float_math.cuh has the same for one float of a GPU.
#pragma once

#include "carousel/core/sigmoid.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// NaN stays NaN, but in min and max only as the second argument.
struct VecMath {
  using V = Vec;
  static CAROUSEL_INLINE Vec set1(float x) { return CAROUSEL_ISA::set1(x); }

  static CAROUSEL_INLINE Vec min(Vec a, Vec b) { return CAROUSEL_ISA::min(a, b); }
  static CAROUSEL_INLINE Vec max(Vec a, Vec b) { return CAROUSEL_ISA::max(a, b); }
  /// a * b + c, rounded once where the instruction set can.
  static CAROUSEL_INLINE Vec fma(Vec a, Vec b, Vec c) { return CAROUSEL_ISA::fma(a, b, c); }
  /// a * b, rounded by itself.
  static CAROUSEL_INLINE Vec product(Vec a, Vec b) { return a * b; }
  /// |x|.
  static CAROUSEL_INLINE Vec size(Vec x) { return CAROUSEL_ISA::max(x, -x); }
  /// -|x|.
  static CAROUSEL_INLINE Vec minus_size(Vec x) { return negative_abs(x); }
  /// e^x of any x.
  static CAROUSEL_INLINE Vec exp(Vec x) { return CAROUSEL_ISA::exp(x); }
  /// e^-|x|; 0 of |x| from 87.7 on, or smaller than any normal number. It takes half the work of exp.
  static CAROUSEL_INLINE Vec exp_minus_size(Vec x) { return exp_decay(negative_abs(x)); }
  static CAROUSEL_INLINE Vec tanh(Vec x) { return CAROUSEL_ISA::tanh(x); }
  static CAROUSEL_INLINE Vec erf(Vec x) { return CAROUSEL_ISA::erf(x); }
  /// log(1 + x) of x from 0 to 1.
  static CAROUSEL_INLINE Vec log1p_unit(Vec x) { return CAROUSEL_ISA::log1p_unit(x); }
};

/// The functions of one lane, as far as loops over floats need them that the compiler turns into vectors.
struct LaneMath {
  using V = float;
  static CAROUSEL_INLINE float product(float a, float b) { return a * b; }
};

inline Vec sigmoid(Vec x) { return carousel::sigmoid<VecMath>(x); }

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
