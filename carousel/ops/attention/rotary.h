// SPDX-License-Identifier: Apache-2.0
// The rotation of pairs of elements of a head by angles that grow with the position (arXiv:2104.09864).
#pragma once

#include <cstdint>

#include "carousel/core/host_device.h"

namespace carousel::ops {

/// The angle at a position, rounded to f32 as the references round it. Cosine and sine of it are exact to the last bit
/// but one.
HOST_DEVICE float rotary_angle(int64_t pos, float inv_freq) { return static_cast<float>(pos) * inv_freq; }

/// Elements j and j + R/2.
template <class Math>
struct RotaryPair {
  typename Math::V a, b;
};
/// Every product is rounded, as in the references: where a compiler may fuse one of the two, kernels differ in which.
/// Math: cpu/vec_math.h, cuda/float_math.cuh.
template <class Math>
HOST_DEVICE RotaryPair<Math> rotate(const RotaryPair<Math>& pair, typename Math::V cosine, typename Math::V sine) {
  return {Math::product(pair.a, cosine) - Math::product(pair.b, sine),
          Math::product(pair.b, cosine) + Math::product(pair.a, sine)};
}

}  // namespace carousel::ops
