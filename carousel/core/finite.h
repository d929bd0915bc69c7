// SPDX-License-Identifier: Apache-2.0
// NaN and infinity, which a checkpoint or a saved state must not hold.
#pragma once

#include <cstdint>
#include <optional>

#include "carousel/core/dtype.h"

namespace carousel {

/// Index of the first NaN or infinity among `count` values of a float or block type; nothing for integers. The values
/// need no alignment. A block whose scale is not finite counts from its first value on.
std::optional<int64_t> first_not_finite(const void* values, DType dtype, int64_t count);

}  // namespace carousel
