// SPDX-License-Identifier: Apache-2.0
// Factors of the products in bf16: rounding, pairs, and the product of a pair. For *_cpu.cc files.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// Rounds to bf16, to nearest and ties to even, into the low halves of the lanes (the high ones hold the sign); NaN
/// stays NaN.
CAROUSEL_INLINE IntVec round_bf16(Vec values) {
  const IntVec bits = as_int(values);
  const IntVec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? (bits >> 16) | 0x40 : rounded;
}

// A chain takes both products of a pair one after the other: the instruction begins with the high halves, the code that
// stands in for it with the low ones. What one chain over single rows must equal is paired in this order.
#if defined(__AVX512BF16__)
constexpr bool kHighHalfFirst = true;
#else
constexpr bool kHighHalfFirst = false;
#endif

/// `count` pairs of two rows, 4 bytes each, in the order in which a chain takes them; `second` null: zeros.
CAROUSEL_INLINE void pair_rows(const float* first, const float* second, int64_t count, char* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    const bool whole = lanes == kLanes;
    const IntVec early = round_bf16(whole ? load(first + i) : load_partial(first + i, lanes));
    IntVec late = {};
    if (second != nullptr) late = round_bf16(whole ? load(second + i) : load_partial(second + i, lanes));
    const IntVec pairs = kHighHalfFirst ? early << 16 | (late & 0xFFFF) : late << 16 | (early & 0xFFFF);
    auto* const at = reinterpret_cast<float*>(out + i * 4);
    if (whole) {
      store(at, as_float(pairs));
    } else {
      store_partial(at, as_float(pairs), lanes);
    }
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
