// SPDX-License-Identifier: Apache-2.0
// Weights packed and read back: exact, from any address, in any pieces; the panel layout the kernels rely on.
#include "carousel/ops/weight.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"

namespace carousel {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr Weight::Layout kLayouts[] = {Weight::Layout::kPanels, Weight::Layout::kRows};

/// Row-major elements of `dtype` at an odd address, and their values.
struct Source {
  std::vector<std::byte> buffer;
  std::vector<float> values;
  const std::byte* at(int64_t row, int64_t cols, DType dtype) const {
    return buffer.data() + 1 + static_cast<size_t>(row * cols) * dtype_size(dtype);
  }
};

Source make_source(int64_t count, DType dtype) {
  Rng rng(5);
  std::vector<float> exact(static_cast<size_t>(count));
  for (float& value : exact) value = static_cast<float>(rng.normal());
  std::vector<std::byte> stored(exact.size() * dtype_size(dtype));
  narrow(exact.data(), dtype, stored.data(), exact.size());
  Source source;
  source.values.resize(exact.size());
  widen(stored.data(), dtype, source.values.data(), exact.size());
  source.buffer.resize(stored.size() + 1);
  std::memcpy(source.buffer.data() + 1, stored.data(), stored.size());
  return source;
}

TEST(Weight, RoundTripFromUnalignedSource) {
  ThreadPool pool(3);
  const Stream stream{Device::kCpu, Isa::kPortable, &pool};
  for (const DType dtype : kDTypes) {
    for (const Weight::Layout layout : kLayouts) {
      for (const int64_t cols : {1, 2, 3, 17, 64, 255}) {
        for (const int64_t rows : {1, 5, 32, 33, 100}) {
          const Source source = make_source(rows * cols, dtype);
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

TEST(Weight, PiecesEqualWhole) {
  ThreadPool pool(2);
  const Stream stream{Device::kCpu, Isa::kPortable, &pool};
  const int64_t rows = 100, cols = 33;
  for (const DType dtype : kDTypes) {
    for (const Weight::Layout layout : kLayouts) {
      const Source source = make_source(rows * cols, dtype);
      Weight whole(rows, cols, dtype, layout), pieces(rows, cols, dtype, layout);
      whole.write_rows(stream, 0, rows, source.at(0, cols, dtype));
      const int64_t cuts[] = {0, 7, 7, 32, 40, 99, 100};
      for (size_t i = 0; i + 1 < std::size(cuts); ++i) {
        pieces.write_rows(stream, cuts[i], cuts[i + 1] - cuts[i], source.at(cuts[i], cols, dtype));
      }
      ASSERT_EQ(whole.size_bytes(), pieces.size_bytes());
      EXPECT_EQ(std::memcmp(whole.storage().raw(), pieces.storage().raw(), whole.size_bytes()), 0);
      std::vector<float> row(static_cast<size_t>(cols));
      whole.read_rows(41, 1, row.data());
      EXPECT_EQ(std::memcmp(row.data(), source.values.data() + 41 * cols, row.size() * sizeof(float)), 0);
    }
  }
}

TEST(Weight, PanelsHoldColumnAfterColumn) {
  ThreadPool pool(1);
  const Stream stream{Device::kCpu, Isa::kPortable, &pool};
  const int64_t rows = 40, cols = 3;
  const Source f32 = make_source(rows * cols, DType::kF32);
  Weight weight(rows, cols, DType::kF32, Weight::Layout::kPanels);
  weight.write_rows(stream, 0, rows, f32.at(0, cols, DType::kF32));
  ASSERT_EQ(weight.size_bytes(), 2u * 3 * 32 * 4);
  const float* const cells = static_cast<const float*>(weight.storage().raw());
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t k = 0; k < cols; ++k) {
      const float expected = row < rows ? f32.values[static_cast<size_t>(row * cols + k)] : 0.0f;
      EXPECT_EQ(cells[(row / 32 * cols + k) * 32 + row % 32], expected);
    }
  }

  const Source bf16 = make_source(rows * cols, DType::kBF16);
  Weight pairs(rows, cols, DType::kBF16, Weight::Layout::kPanels);
  pairs.write_rows(stream, 0, rows, bf16.at(0, cols, DType::kBF16));
  ASSERT_EQ(pairs.size_bytes(), 2u * 2 * 32 * 2 * 2);  // three columns are two pairs
  const BF16* const halves = static_cast<const BF16*>(pairs.storage().raw());
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t k = 0; k < 4; ++k) {
      const float expected = row < rows && k < cols ? bf16.values[static_cast<size_t>(row * cols + k)] : 0.0f;
      EXPECT_EQ(to_float(halves[((row / 32 * 2 + k / 2) * 32 + row % 32) * 2 + k % 2]), expected);
    }
  }
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
  const Weight weight(int64_t{1} << 30, int64_t{1} << 20, DType::kBF16, Weight::Layout::kPanels, Device::kMeta);
  EXPECT_EQ(weight.device(), Device::kMeta);
  EXPECT_EQ(weight.storage().raw(), nullptr);
  EXPECT_EQ(weight.size_bytes(), size_t{1} << 51);
}

TEST(Weight, RefusesWhatCannotBe) {
  const auto make = [](int64_t rows, int64_t cols, DType dtype) {
    return Weight(rows, cols, dtype, Weight::Layout::kPanels, Device::kMeta);
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
