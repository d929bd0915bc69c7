// SPDX-License-Identifier: Apache-2.0
// Packing for loaders, which do not trust a file's values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "carousel/core/stream.h"
#include "carousel/ops/weight/dense_panels.h"

namespace carousel {

/// DensePanels::write_rows of rows in the panels' own type, which are searched for values that are not finite on the
/// way: a task reads a panel's rows from memory once, and packs them from its cache. Returns whether all are finite;
/// where one is not, the panels hold it.
///   rows [count, cols] in the panels' type; `first` begins a panel, or the rows before it are written already
bool write_checked_rows(const Stream& stream, const DensePanels& panels, int64_t first, int64_t count, int64_t cols,
                        const std::byte* rows);

}  // namespace carousel
