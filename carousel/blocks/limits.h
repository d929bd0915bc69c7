// SPDX-License-Identifier: Apache-2.0
// Limits that options of several blocks share.
#pragma once

#include <cstdint>

namespace carousel::blocks {

constexpr int64_t kMaxHeads = 65535;  // blocks of GPUs lie along one axis of a grid

}  // namespace carousel::blocks
