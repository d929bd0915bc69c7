// SPDX-License-Identifier: Apache-2.0
// ops::cross_entropy against f64; extremes; targets out of range.
#include "carousel/ops/tokens/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

Tensor targets_of(const std::vector<int32_t>& ids) {
  Tensor targets({static_cast<int64_t>(ids.size())}, DType::kI32);
  if (!ids.empty()) std::memcpy(targets.raw(), ids.data(), ids.size() * sizeof(int32_t));
  return targets;
}

TEST(CrossEntropy, AgreesWithF64) {
  for (const Isa isa : cpu::runnable_isas()) {
    for (const int threads : {1, 3}) {
      Machine machine(isa, threads);
      for (const int64_t vocab : {1, 2, 15, 16, 17, 50257}) {
        const Tensor logits = random_tensor({20, vocab}, 1, 8.0f, -200.0f);
        std::vector<int32_t> ids;
        for (int64_t n = 0; n < 20; ++n) ids.push_back(static_cast<int32_t>(n * 7919 % vocab));
        const Tensor nll = ops::cross_entropy(machine.ctx, logits, targets_of(ids));
        for (int64_t n = 0; n < 20; ++n) {
          const float* row = logits.f32() + n * vocab;
          double sum = 0;
          for (int64_t j = 0; j < vocab; ++j) sum += std::exp(double{row[j]} + 200.0);
          const double expected = std::log(sum) - (double{row[ids[static_cast<size_t>(n)]]} + 200.0);
          // The exponentials err by 1.5 ulp each, their sum in f64 no more; the f32 result rounds once.
          EXPECT_NEAR(nll.f32()[n], expected, 2e-7 * (1 + std::abs(expected))) << vocab;
        }
      }
    }
  }
}

TEST(CrossEntropy, Extremes) {
  Machine machine;
  Tensor logits({2, 3}, DType::kF32);
  const float values[] = {3e38f, -3e38f, 0, -INFINITY, 1, -INFINITY};
  std::memcpy(logits.raw(), values, sizeof values);
  const Tensor nll = ops::cross_entropy(machine.ctx, logits, targets_of({0, 1}));
  EXPECT_EQ(nll.f32()[0], 0.0f);
  EXPECT_EQ(nll.f32()[1], 0.0f);
  EXPECT_EQ(ops::cross_entropy(machine.ctx, Tensor({0, 3}, DType::kF32), targets_of({})).dim(0), 0);
}

TEST(CrossEntropy, TargetsOutOfRangeAreRefused) {
  Machine machine;
  const Tensor logits = random_tensor({2, 3}, 1);
  EXPECT_THROW(ops::cross_entropy(machine.ctx, logits, targets_of({0, 3})), Error);
  EXPECT_THROW(ops::cross_entropy(machine.ctx, logits, targets_of({-1, 0})), Error);
  EXPECT_THROW(ops::cross_entropy(machine.ctx, logits, targets_of({0})), Error);
}

}  // namespace
}  // namespace carousel
