// SPDX-License-Identifier: Apache-2.0
// How a row of q8 or q4 lies in a memory that is apart: the numbers of all its blocks first, then all their scales, so
// that 16 bytes can be read at once. Bits are those of core/quant_blocks.h.
//   Q8: i8 q[32] of each block, then f16 d of each block     Q4: u8 pairs[16] of each block, then f16 d of each block
// A row is filled up with zeros to a multiple of 16 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "carousel/core/dtype.h"

namespace carousel {

/// Bytes of the numbers of one block.
constexpr int64_t split_number_bytes(DType dtype) { return dtype == DType::kQ8 ? 32 : 16; }
/// Where the scales of a row of `cols` values begin, and what the row takes.
constexpr int64_t split_scales_at(int64_t cols, DType dtype) {
  return (cols + static_cast<int64_t>(kBlockValues) - 1) / static_cast<int64_t>(kBlockValues) *
         split_number_bytes(dtype);
}
constexpr int64_t split_row_bytes(int64_t cols, DType dtype) {
  const int64_t blocks = split_scales_at(cols, dtype) / split_number_bytes(dtype);
  return (split_scales_at(cols, dtype) + 2 * blocks + 15) / 16 * 16;
}

/// A row of blocks to its split form, which is written whole, and back.
void split_blocks(const std::byte* blocks, int64_t cols, DType dtype, std::byte* split);
void join_blocks(const std::byte* split, int64_t cols, DType dtype, std::byte* blocks);

}  // namespace carousel
