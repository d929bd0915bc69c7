// SPDX-License-Identifier: Apache-2.0
// Packing rows of GGUF's blocks into panels, and reading them back (block_forms.h draws the panels).
#pragma once

#include <cstddef>
#include <cstdint>

#include "carousel/core/dtype.h"

namespace carousel {

/// The contract is pack_panel_rows', for block types that are no simple blocks.
void pack_block_panel(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols, DType dtype);
/// Row r of a panel in f32: the values that decode_blocks gives, bit for bit.
void unpack_block_panel_row(const std::byte* panel, int64_t r, int64_t cols, DType dtype, float* out);

}  // namespace carousel
