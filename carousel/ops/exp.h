// SPDX-License-Identifier: Apache-2.0
// The vector functions of cpu/vec.h applied to arrays, on every instruction set: the tests measure their errors here.
#pragma once

#include <cstdint>

#include "carousel/cpu/kernel.h"

namespace carousel::ops {

struct ExpArgs {
  const float* x;  // [count]
  float* out;      // [count]
  int64_t count;
};

}  // namespace carousel::ops

KERNEL(exp_array, ops::ExpArgs);
KERNEL(tanh_array, ops::ExpArgs);
KERNEL(sigmoid_array, ops::ExpArgs);
