// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/weight/checked_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "carousel/core/quant_blocks.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"

namespace carousel {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8,    DType::kQ4,
                            DType::kQ41, DType::kQ50, DType::kQ51,  DType::kQ2K,   DType::kQ3K,
                            DType::kQ4K, DType::kQ5K, DType::kQ6K,  DType::kIQ4NL, DType::kIQ4XS};

/// Rows whose every 16-bit word is no infinity and no NaN as f16, nor as bf16 or as half of an f32.
std::vector<std::byte> random_rows(int64_t rows, size_t row_bytes) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows) * row_bytes);
  Rng rng(5);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.bits() >> 24) & std::byte{0xBB};
  return bytes;
}

class CheckedRows : public testing::Test {
 protected:
  static constexpr int64_t kRows = 100, kCols = 512;
  ThreadPool pool_{3};
  Stream stream_{&Memory::host(), cpu::best_isa(), &pool_};
};

// In two pieces, as a loader writes them; 100 rows leave the last panel partly filled.
TEST_F(CheckedRows, PanelsHaveTheBytesOfUncheckedOnes) {
  for (const DType dtype : kTypes) {
    const size_t row_bytes = dtype_bytes(dtype, kCols);
    const std::vector<std::byte> rows = random_rows(kRows, row_bytes);
    DensePanels plain(kRows, kCols, dtype, Memory::host()), checked(kRows, kCols, dtype, Memory::host());
    plain.write_rows(stream_, 0, kRows, rows.data(), dtype);
    EXPECT_TRUE(write_checked_rows(stream_, checked, 0, 64, kCols, rows.data())) << dtype_name(dtype);
    EXPECT_TRUE(write_checked_rows(stream_, checked, 64, kRows - 64, kCols, rows.data() + 64 * row_bytes))
        << dtype_name(dtype);
    ASSERT_EQ(plain.size_bytes(), checked.size_bytes());
    EXPECT_EQ(std::memcmp(plain.panels().raw(), checked.panels().raw(), plain.size_bytes()), 0) << dtype_name(dtype);
  }
}

TEST_F(CheckedRows, ABadValueInAnyRowIsFound) {
  for (const DType dtype : kTypes) {
    const size_t row_bytes = dtype_bytes(dtype, kCols);
    const size_t scale = is_block(dtype) ? block_form(dtype).scale : 0;
    for (const int64_t row : {int64_t{0}, int64_t{31}, int64_t{32}, kRows - 1}) {
      std::vector<std::byte> rows = random_rows(kRows, row_bytes);
      const size_t size = is_block(dtype) ? 2 : dtype_size(dtype);
      std::memset(rows.data() + static_cast<size_t>(row) * row_bytes + scale, 0xFF, size);  // a NaN
      DensePanels panels(kRows, kCols, dtype, Memory::host());
      EXPECT_FALSE(write_checked_rows(stream_, panels, 0, kRows, kCols, rows.data())) << dtype_name(dtype) << row;
    }
  }
}

}  // namespace
}  // namespace carousel
