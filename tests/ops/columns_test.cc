// SPDX-License-Identifier: Apache-2.0
// Columns: what they name, and what is refused.
#include "carousel/ops/columns.h"

#include <gtest/gtest.h>

#include "carousel/core/error.h"

namespace carousel {
namespace {

TEST(Columns, NameARangeOfTheirTensor) {
  const Tensor matrix({3, 5}, DType::kF32);
  const Columns some = columns(matrix, 2, 3);
  EXPECT_EQ(some.rows(), 3);
  const View seen = view(some);
  EXPECT_EQ(seen.f32(), matrix.f32() + 2);
  EXPECT_EQ(seen.stride, 5);
  EXPECT_EQ(view(columns(matrix)).f32(), matrix.f32());
  EXPECT_EQ(columns(matrix).count, 5);
}

TEST(Columns, OnMetaAndWithoutATensorThereIsNothingToSee) {
  const Tensor meta({3, 5}, DType::kF32, Memory::meta());
  EXPECT_EQ(view(columns(meta, 1, 2)).data, nullptr);
  EXPECT_EQ(view(columns(meta, 1, 2)).stride, 5);
  EXPECT_EQ(view(Columns()).data, nullptr);
}

TEST(Columns, BeyondTheMatrixAreRefused) {
  const Tensor matrix({3, 5}, DType::kF32);
  EXPECT_THROW(columns(matrix, 3, 3), Error);
  EXPECT_THROW(columns(matrix, -1, 2), Error);
  EXPECT_THROW(columns(matrix, 0, -1), Error);
  EXPECT_THROW(columns(Tensor({5}, DType::kF32), 0, 1), Error);
  EXPECT_THROW(check_columns("test", "x", columns(matrix, 0, 2), 3, 3), Error);
  EXPECT_THROW(check_columns("test", "x", columns(matrix, 0, 2), 4, 2), Error);
  EXPECT_THROW(check_columns("test", "x", columns(Tensor({3, 2}, DType::kI32)), 3, 2), Error);
  EXPECT_NO_THROW(check_columns("test", "x", columns(matrix, 0, 2), 3, 2));
}

}  // namespace
}  // namespace carousel
