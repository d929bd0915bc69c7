// SPDX-License-Identifier: Apache-2.0
// Rows and columns moved: the values asked for, in the order asked for.
#include "carousel/ops/rows/rows.h"

#include <gtest/gtest.h>

#include <vector>

#include "carousel/core/error.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

TEST(GatherRows, GivesRowsInTheOrderAsked) {
  for (const Target& target : targets()) {
    Machine machine(target, 3);
    const Tensor x = random_tensor({6, 37}, 1);
    const std::vector<int64_t> rows = {5, 0, 0, 3};
    const Tensor picked = ops::gather_rows(machine.ctx, machine.on(x), rows).to_host();
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto n = static_cast<int64_t>(i);
      EXPECT_TRUE(same_bits(picked.rows(n, n + 1), x.rows(rows[i], rows[i] + 1)));
    }
    EXPECT_EQ(ops::gather_rows(machine.ctx, x, {}).dim(0), 0);
    const std::vector<int64_t> beyond = {6};
    EXPECT_THROW(ops::gather_rows(machine.ctx, x, beyond), Error);
  }
}

TEST(CopyColumns, TouchesTheseColumnsAlone) {
  for (const Target& target : targets()) {
    Machine machine(target);
    const Tensor from = random_tensor({4, 9}, 1), there = machine.on(Tensor({4, 7}, DType::kF32));
    ops::copy_columns(machine.ctx, machine.on(columns(from, 3, 5)), columns(there, 1, 5));
    const Tensor to = there.to_host();
    for (int64_t n = 0; n < 4; ++n) {
      for (int64_t j = 0; j < 7; ++j) {
        EXPECT_EQ(to.f32()[n * 7 + j], j >= 1 && j < 6 ? from.f32()[n * 9 + j + 2] : 0.0f);
      }
    }
    EXPECT_THROW(ops::copy_columns(machine.ctx, columns(from, 3, 5), columns(to, 1, 4)), Error);
  }
}

// The gradient is a matrix of zeros and counts, so the sums are exact but for the order of f32 additions.
TEST(GatherRows, RowsAskedForTwiceGetTheSum) {
  for (const Isa isa : tested_isas()) {
    for (const int threads : {1, 3}) {
      Taped t(isa, threads);
      const Tensor x = t.input(random_tensor({6, 601}, 1));
      const std::vector<int64_t> rows = {5, 0, 3, 0, 0};
      const Tensor picked = ops::gather_rows(t.ctx, x, rows), weights = random_tensor({5, 601}, 2);
      t.backward({{picked, weights}});
      const Tensor d_x = t.gradient(x);
      for (int64_t n = 0; n < 6; ++n) {
        for (int64_t j = 0; j < 601; ++j) {
          float sum = 0;
          for (size_t i = 0; i < rows.size(); ++i) {
            if (rows[i] == n) sum += weights.f32()[static_cast<int64_t>(i) * 601 + j];
          }
          ASSERT_EQ(d_x.f32()[n * 601 + j], sum) << n << ", " << j;
        }
      }
    }
  }
}

}  // namespace
}  // namespace carousel
