// SPDX-License-Identifier: Apache-2.0
// Values that are no numbers: what a checkpoint or a saved state must not hold.
#pragma once

#include <cstdint>
#include <optional>

#include "carousel/core/dtype.h"

namespace carousel {

/// Index of the first NaN or infinity among `count` values of a float or block type, which need no alignment; nothing
/// for integers. Of a block whose scale is not finite, its first value.
std::optional<int64_t> first_not_finite(const void* values, DType dtype, int64_t count);

}  // namespace carousel
