// SPDX-License-Identifier: Apache-2.0
// Blocks taken apart and put together.
#include "carousel/ops/weight/split_rows.h"

#include <cstring>

namespace carousel {
namespace {

constexpr size_t kScaleBytes = 2;  // of a block, before its numbers (core/quant_blocks.h)

}  // namespace

void split_blocks(const std::byte* blocks, int64_t cols, DType dtype, std::byte* split) {
  const auto number_bytes = static_cast<size_t>(split_number_bytes(dtype));
  const auto scales_at = static_cast<size_t>(split_scales_at(cols, dtype));
  std::memset(split, 0, static_cast<size_t>(split_row_bytes(cols, dtype)));
  for (size_t i = 0; i < scales_at / number_bytes; ++i, blocks += kScaleBytes + number_bytes) {
    std::memcpy(split + scales_at + i * kScaleBytes, blocks, kScaleBytes);
    std::memcpy(split + i * number_bytes, blocks + kScaleBytes, number_bytes);
  }
}

void join_blocks(const std::byte* split, int64_t cols, DType dtype, std::byte* blocks) {
  const auto number_bytes = static_cast<size_t>(split_number_bytes(dtype));
  const auto scales_at = static_cast<size_t>(split_scales_at(cols, dtype));
  for (size_t i = 0; i < scales_at / number_bytes; ++i, blocks += kScaleBytes + number_bytes) {
    std::memcpy(blocks, split + scales_at + i * kScaleBytes, kScaleBytes);
    std::memcpy(blocks + kScaleBytes, split + i * number_bytes, number_bytes);
  }
}

}  // namespace carousel
