// SPDX-License-Identifier: Apache-2.0
// Rows of blocks taken apart: where numbers and scales lie, and that they come together again.
#include "carousel/ops/weight/split_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "carousel/core/dtype.h"
#include "carousel/core/quant_blocks.h"

namespace carousel {
namespace {

TEST(SplitRows, NumbersThenScalesAtMultiplesOf16Bytes) {
  EXPECT_EQ(split_row_bytes(32, DType::kQ4), 32);  // 16 of numbers, a scale, zeros
  EXPECT_EQ(split_row_bytes(33, DType::kQ8), 80);  // two blocks
  EXPECT_EQ(split_scales_at(4096, DType::kQ4), 2048);
  EXPECT_EQ(split_row_bytes(4096, DType::kQ4), 2048 + 256);
  for (const DType dtype : {DType::kQ8, DType::kQ4}) {
    for (int64_t cols = 1; cols < 300; ++cols) EXPECT_EQ(split_row_bytes(cols, dtype) % 16, 0) << cols;
  }
}

TEST(SplitRows, ComeTogetherAgain) {
  for (const DType dtype : {DType::kQ8, DType::kQ4}) {
    for (const int64_t cols : {1, 31, 32, 33, 64, 300}) {
      const size_t size = dtype_bytes(dtype, static_cast<size_t>(cols));
      std::vector<std::byte> blocks(size), again(size);
      for (size_t i = 0; i < size; ++i) blocks[i] = static_cast<std::byte>(i * 37 + 11);
      std::vector<std::byte> split(static_cast<size_t>(split_row_bytes(cols, dtype)), std::byte{0xff});
      split_blocks(blocks.data(), cols, dtype, split.data());
      join_blocks(split.data(), cols, dtype, again.data());
      EXPECT_EQ(blocks, again) << dtype_name(dtype) << " " << cols;
      const size_t block_bytes = dtype == DType::kQ8 ? kQ8BlockBytes : kQ4BlockBytes, last = size - block_bytes;
      const auto scales = static_cast<size_t>(split_scales_at(cols, dtype));
      EXPECT_EQ(split[scales + last / block_bytes * 2], blocks[last]);  // the scale of the last block
      EXPECT_EQ(split[scales - 1], blocks[size - 1]);                   // its last number
    }
  }
}

}  // namespace
}  // namespace carousel
