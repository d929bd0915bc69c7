// SPDX-License-Identifier: Apache-2.0
// The LSTM that is the mixed memory of the continuous-time cells, as ncps has it:
//   c' = c sigmoid(f + 1) + tanh(cand) sigmoid(i),  h' = tanh(c') sigmoid(o)
// Math: cpu/vec_math.h, cuda/float_math.cuh.
#pragma once

#include "carousel/core/sigmoid.h"

namespace carousel::ops {

/// The candidate and the gates of units: before their functions as sums, after them as activations.
template <class Math>
struct MemoryGates {
  typename Math::V cand, i, f, o;
};

template <class Math>
HOST_DEVICE MemoryGates<Math> memory_gates(const MemoryGates<Math>& sums) {
  return {Math::tanh(sums.cand), sigmoid<Math>(sums.i), sigmoid<Math>(sums.f + Math::set1(1.0f)),
          sigmoid<Math>(sums.o)};
}
/// c', from c and the activated gates.
template <class Math>
HOST_DEVICE typename Math::V memory_next(const MemoryGates<Math>& gates, typename Math::V c) {
  return c * gates.f + gates.cand * gates.i;
}
/// h', from c' and the activated output gate.
template <class Math>
HOST_DEVICE typename Math::V memory_output(typename Math::V c, typename Math::V o) {
  return Math::tanh(c) * o;
}

}  // namespace carousel::ops
