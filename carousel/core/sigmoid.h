// SPDX-License-Identifier: Apache-2.0
// The sigmoid and its logarithm. Math: cpu/vec_math.h, cuda/float_math.cuh, which also bind sigmoid() to their type.
#pragma once

#include "carousel/core/host_device.h"

namespace carousel {

template <class Math>
HOST_DEVICE typename Math::V sigmoid(typename Math::V x) {
  const typename Math::V one = Math::set1(1.0f);
  return one / (one + Math::exp(-x));
}

/// log sigmoid(x) = min(x, 0) - log(1 + e^-|x|): no overflow, and exact to 2 ulp of the larger term. `e`: e^-|x|, by
/// whichever exponential serves the caller.
template <class Math>
HOST_DEVICE typename Math::V log_sigmoid(typename Math::V x, typename Math::V e) {
  return Math::min(x, Math::set1(0.0f)) - Math::log1p_unit(e);
}
template <class Math>
HOST_DEVICE typename Math::V log_sigmoid(typename Math::V x) {
  return log_sigmoid<Math>(x, Math::exp(Math::minus_size(x)));
}

}  // namespace carousel
