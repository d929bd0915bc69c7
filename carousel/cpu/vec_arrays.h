// SPDX-License-Identifier: Apache-2.0
// The vector functions of cpu/vec.h applied to arrays, on every instruction set: the tests measure their errors here.
#pragma once

#include <cstdint>

#include "carousel/cpu/kernel.h"

namespace carousel::cpu {

struct ArrayArgs {
  const float* x;  // [count]
  float* out;      // [count]
  int64_t count;
};

}  // namespace carousel::cpu

SET_KERNEL(exp_array, cpu::ArrayArgs);
SET_KERNEL(tanh_array, cpu::ArrayArgs);
SET_KERNEL(sigmoid_array, cpu::ArrayArgs);
