// SPDX-License-Identifier: Apache-2.0
// Inputs for tests of ops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "carousel/core/rng.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// `count` normal values; the seed decides them.
inline std::vector<float> normals(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.normal());
  return values;
}

inline Tensor tensor_of(const std::vector<float>& values, Shape shape) {
  Tensor tensor(shape, DType::kF32);
  std::copy(values.begin(), values.end(), tensor.f32());
  return tensor;
}

}  // namespace carousel
