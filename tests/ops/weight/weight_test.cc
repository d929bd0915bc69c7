// SPDX-License-Identifier: Apache-2.0
// Weights packed and read back: exact, from any address, in any pieces; the panel layout the kernels rely on.
#include "carousel/ops/weight/weight.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"

namespace carousel {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4};
constexpr Weight::Layout kLayouts[] = {Weight::Layout::kPanels, Weight::Layout::kRows};

/// Row-major elements of `dtype` at an odd address, and their values.
struct Source {
  std::vector<std::byte> buffer;
  std::vector<float> values;
  const std::byte* at(int64_t row, int64_t cols, DType dtype) const {
    return buffer.data() + 1 + static_cast<size_t>(row) * dtype_bytes(dtype, static_cast<size_t>(cols));
  }
};

Source make_source(int64_t rows, int64_t cols, DType dtype) {
  Rng rng(5);
  const auto width = static_cast<size_t>(cols);
  const size_t row_bytes = dtype_bytes(dtype, width);
  Source source;
  source.values.resize(static_cast<size_t>(rows) * width);
  source.buffer.resize(1 + static_cast<size_t>(rows) * row_bytes);
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    float* const values = source.values.data() + row * width;
    for (size_t k = 0; k < width; ++k) values[k] = static_cast<float>(rng.normal());
    narrow(values, dtype, source.buffer.data() + 1 + row * row_bytes, width);
    widen(source.buffer.data() + 1 + row * row_bytes, dtype, values, width);
  }
  return source;
}

TEST(Weight, RoundTripFromUnalignedSource) {
  ThreadPool pool(3);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  for (const DType dtype : kDTypes) {
    for (const Weight::Layout layout : kLayouts) {
      for (const int64_t cols : {1, 2, 3, 17, 64, 255}) {
        for (const int64_t rows : {1, 5, 32, 33, 100}) {
          const Source source = make_source(rows, cols, dtype);
          Weight weight(rows, cols, dtype, layout);
          weight.write_rows(stream, 0, rows, source.at(0, cols, dtype));
          std::vector<float> read(static_cast<size_t>(rows * cols));
          weight.read_rows(0, rows, read.data());
          EXPECT_EQ(read, source.values) << dtype_name(dtype) << " [" << rows << ", " << cols << "]";
        }
      }
    }
  }
}

const void* held(const Weight& weight) {
  const auto* const panels = weight.as<DensePanels>();
  return panels != nullptr ? panels->panels().raw() : weight.as<DenseRows>()->bytes().raw();
}

TEST(Weight, PiecesEqualWhole) {
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  const int64_t rows = 100, cols = 33;
  for (const DType dtype : kDTypes) {
    for (const Weight::Layout layout : kLayouts) {
      const Source source = make_source(rows, cols, dtype);
      Weight whole(rows, cols, dtype, layout), pieces(rows, cols, dtype, layout);
      whole.write_rows(stream, 0, rows, source.at(0, cols, dtype));
      const int64_t cuts[] = {0, 7, 7, 32, 40, 99, 100};
      for (size_t i = 0; i + 1 < std::size(cuts); ++i) {
        pieces.write_rows(stream, cuts[i], cuts[i + 1] - cuts[i], source.at(cuts[i], cols, dtype));
      }
      ASSERT_EQ(whole.size_bytes(), pieces.size_bytes());
      EXPECT_EQ(std::memcmp(held(whole), held(pieces), whole.size_bytes()), 0);
      std::vector<float> row(static_cast<size_t>(cols));
      whole.read_rows(41, 1, row.data());
      EXPECT_EQ(std::memcmp(row.data(), source.values.data() + 41 * cols, row.size() * sizeof(float)), 0);
    }
  }
}

TEST(Weight, PanelsHoldColumnAfterColumn) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  const int64_t rows = 40, cols = 3;
  const Source f32 = make_source(rows, cols, DType::kF32);
  Weight weight(rows, cols, DType::kF32, Weight::Layout::kPanels);
  weight.write_rows(stream, 0, rows, f32.at(0, cols, DType::kF32));
  ASSERT_EQ(weight.size_bytes(), 2u * 3 * 32 * 4);
  const float* const cells = static_cast<const float*>(weight.as<DensePanels>()->panels().raw());
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t k = 0; k < cols; ++k) {
      const float expected = row < rows ? f32.values[static_cast<size_t>(row * cols + k)] : 0.0f;
      EXPECT_EQ(cells[(row / 32 * cols + k) * 32 + row % 32], expected);
    }
  }

  const Source bf16 = make_source(rows, cols, DType::kBF16);
  Weight pairs(rows, cols, DType::kBF16, Weight::Layout::kPanels);
  pairs.write_rows(stream, 0, rows, bf16.at(0, cols, DType::kBF16));
  ASSERT_EQ(pairs.size_bytes(), 2u * 2 * 32 * 2 * 2);  // three columns are two pairs
  const BF16* const halves = static_cast<const BF16*>(pairs.as<DensePanels>()->panels().raw());
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t k = 0; k < 4; ++k) {
      const float expected = row < rows && k < cols ? bf16.values[static_cast<size_t>(row * cols + k)] : 0.0f;
      EXPECT_EQ(to_float(halves[((row / 32 * 2 + k / 2) * 32 + row % 32) * 2 + k % 2]), expected);
    }
  }
}

TEST(Weight, BlockPanelsHoldFourColumnsOfEveryRow) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  const int64_t rows = 40, cols = 70;  // two panels of three blocks, the last of six columns
  for (const DType dtype : {DType::kQ8, DType::kQ4}) {
    const Source source = make_source(rows, cols, dtype);
    Weight weight(rows, cols, dtype, Weight::Layout::kPanels);
    weight.write_rows(stream, 0, rows, source.at(0, cols, dtype));
    const bool q8 = dtype == DType::kQ8;
    const size_t block_bytes = q8 ? 1088 : 576;
    ASSERT_EQ(weight.size_bytes(), 2 * 3 * block_bytes);
    const auto* const bytes = static_cast<const uint8_t*>(weight.as<DensePanels>()->panels().raw());
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t k = 0; k < 96; ++k) {
        const uint8_t* const block = bytes + static_cast<size_t>(row / 32 * 3 + k / 32) * block_bytes;
        const int64_t r = row % 32, column = k % 32;
        F16 scale;
        std::memcpy(&scale, block + block_bytes - 64 + 2 * r, 2);
        int code = 0;
        if (q8) {
          code = block[(column / 4 * 32 + r) * 4 + column % 4] - 128;
        } else {
          const int64_t half = column % 16;
          const uint8_t pair = block[(half / 4 * 32 + r) * 4 + half % 4];
          code = (column < 16 ? pair & 15 : pair >> 4) - 8;
        }
        const float expected = k < cols ? source.values[static_cast<size_t>(row * cols + k)] : 0.0f;
        EXPECT_EQ(to_float(scale) * static_cast<float>(code), expected) << row << " " << k;
      }
    }
  }
}

TEST(Weight, RowsOfAnotherTypeAreConverted) {
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  const int64_t rows = 37, cols = 50;
  for (const DType from : kDTypes) {
    for (const DType to : kDTypes) {
      const Source source = make_source(rows, cols, from);
      Weight weight(rows, cols, to, Weight::Layout::kPanels);
      weight.write_rows(stream, 0, 7, source.at(0, cols, from), from);
      weight.write_rows(stream, 7, rows - 7, source.at(7, cols, from), from);
      std::vector<float> expected(cols), row(cols);
      std::vector<std::byte> stored(dtype_bytes(to, cols));
      for (int64_t r = 0; r < rows; ++r) {
        narrow(source.values.data() + r * cols, to, stored.data(), cols);
        widen(stored.data(), to, expected.data(), cols);
        weight.read_rows(r, 1, row.data());
        // The same type is repacked, not encoded anew.
        if (from == to) expected.assign(source.values.begin() + r * cols, source.values.begin() + (r + 1) * cols);
        EXPECT_EQ(row, expected) << dtype_name(from) << " to " << dtype_name(to);
      }
    }
  }
  Weight weight(1, 4, DType::kF32, Weight::Layout::kRows);
  const int32_t integers[4] = {};
  EXPECT_THROW(weight.write_rows(stream, 0, 1, integers, DType::kI32), Error);
}

TEST(Weight, CountsItsBias) {
  Weight weight(40, 8, DType::kF32, Weight::Layout::kRows);
  EXPECT_EQ(weight.size_bytes(), 40u * 8 * 4);
  weight.bias = Tensor({40}, DType::kF32);
  EXPECT_EQ(weight.size_bytes(), 40u * 8 * 4 + 40 * 4);
  EXPECT_EQ(Weight().size_bytes(), 0u);
  EXPECT_FALSE(Weight().defined());
}

TEST(Weight, MetaAllocatesNothing) {
  const Weight weight(int64_t{1} << 30, int64_t{1} << 20, DType::kBF16, Weight::Layout::kPanels, Memory::meta());
  EXPECT_EQ(weight.device(), Device::kMeta);
  EXPECT_EQ(weight.as<DensePanels>()->panels().raw(), nullptr);
  EXPECT_EQ(weight.size_bytes(), size_t{1} << 51);
}

TEST(Weight, RefusesWhatCannotBe) {
  const auto make = [](int64_t rows, int64_t cols, DType dtype) {
    return Weight(rows, cols, dtype, Weight::Layout::kPanels, Memory::meta());
  };
  EXPECT_THROW(make(0, 4, DType::kF32), Error);
  EXPECT_THROW(make(4, 0, DType::kF32), Error);
  EXPECT_THROW(make(-1, 4, DType::kF32), Error);
  EXPECT_THROW(make(4, 4, DType::kI32), Error);
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_THROW(make(kMax, kMax, DType::kF32), Error);
  EXPECT_THROW(make(1, kMax, DType::kBF16), Error);
  EXPECT_THROW(make(kMax, 1, DType::kBF16), Error);
  EXPECT_THROW(make(int64_t{1} << 40, int64_t{1} << 40, DType::kF16), Error);
}

}  // namespace
}  // namespace carousel
