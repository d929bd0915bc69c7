// SPDX-License-Identifier: Apache-2.0
// The sum over the taps of a short convolution. Math: cpu/vec_math.h, cuda/float_math.cuh.
#pragma once

#include <cstdint>

#include "carousel/core/host_device.h"

namespace carousel::ops {

/// bias + sum_k w[k] u[t-(K-1)+k]: one chain of multiply-adds in the order of the taps, so that a row has the same bits
/// by every kernel. tap(k) and input(k) give the two factors. Compilers unroll the loop where the number of taps is a
/// constant of the caller, so that the factors may lie in registers.
template <class Math, class Tap, class Input>
HOST_DEVICE typename Math::V taps_sum(typename Math::V bias, int64_t taps_count, const Tap& tap, const Input& input) {
  typename Math::V sum = bias;
  for (int64_t k = 0; k < taps_count; ++k) sum = Math::fma(tap(k), input(k), sum);
  return sum;
}

}  // namespace carousel::ops
