// SPDX-License-Identifier: Apache-2.0
// f32 values rounded to values of bf16, to nearest and ties to even: a profile asks for it where its implementation
// computes in bf16. For *_cpu.cc files.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

inline float as_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += 0x7FFFu + ((bits >> 16) & 1u);
  bits &= 0xFFFF0000u;
  float rounded;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return x != x ? x : rounded;
}
typedef uint32_t UintVec __attribute__((vector_size(sizeof(Vec))));
inline Vec as_bf16(Vec x) {
  UintVec bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += 0x7FFFu + ((bits >> 16) & 1u);
  bits &= 0xFFFF0000u;
  Vec rounded;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return x != x ? x : rounded;
}

/// Rounds to bf16, or leaves values as they are.
struct Rounding {
  bool narrow = false;
  explicit Rounding(DType dtype) : narrow(dtype == DType::kBF16) {}
  float operator()(float x) const { return narrow ? as_bf16(x) : x; }
  Vec operator()(Vec x) const { return narrow ? as_bf16(x) : x; }
};

}  // namespace carousel::cpu::CAROUSEL_ISA
