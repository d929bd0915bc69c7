// SPDX-License-Identifier: Apache-2.0
// How blocks of x are rounded to 8 bits before a weight of blocks. For *_cpu.cc files.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// Of kLanes blocks: values become multiples of `scale`, by `inverse`.
struct BlockScales {
  Vec scale;     // 0 of a block without a magnitude above 2^-100, NaN of what is not finite
  Vec exponent;  // kPowers: the scale's logarithm to base 2, NaN too; of a scale of 0 anything
  Vec inverse;   // 1 / scale; 0 where that is 0
};

/// From the largest magnitude of each block: a 127th of it. kPowers: the smallest power of two not below that, as in
/// the MXINT8 of the OCP's microscaling formats; multiplying sums by one leaves the multipliers of AVX-512 to the
/// products.
template <bool kPowers>
inline BlockScales block_scales(Vec peaks) {
  const IntVec scalable = peaks > set1(0x1p-100f);
  const Vec poison = peaks - peaks;
  BlockScales out = {};
  if constexpr (kPowers) {
    constexpr int32_t kUp = 0x800000 - 0x7E0000 - 1;  // carries into the exponent what is above 127 / 64 times 2^n
    const IntVec known = scalable ? as_int(peaks) : IntVec{} + 0x3F800000;
    const IntVec bits = ((known + kUp) & 0x7F800000) - (6 << 23);
    out.scale = (scalable ? as_float(bits) : Vec{}) + poison;
    out.exponent = __builtin_convertvector((bits >> 23) - 127, Vec) + poison;
    out.inverse = scalable ? as_float((254 << 23) - bits) : Vec{};
  } else {
    out.scale = (scalable ? peaks / set1(127.0f) : Vec{}) + poison;
    out.inverse = scalable ? set1(127.0f) / peaks : Vec{};
  }
  return out;
}

/// kLanes values as multiples of 1 / inverse, rounded to the nearest integer from -127 to 127; of what is not finite
/// anything from -128 on.
inline IntVec codes_of(Vec values, Vec inverse) {
  const IntVec shifted = as_int(values * inverse + set1(12582912.0f));  // 1.5 * 2^23: adding it rounds to an integer
  return (shifted << 24) >> 24;
}

}  // namespace carousel::cpu::CAROUSEL_ISA
