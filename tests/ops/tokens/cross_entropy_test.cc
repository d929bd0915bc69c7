// SPDX-License-Identifier: Apache-2.0
// ops::cross_entropy against f64; extremes; targets of other logits.
#include "carousel/ops/tokens/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

TEST(CrossEntropy, AgreesWithF64) {
  for (const Target& target : targets()) {
    for (const int threads : {1, 3}) {
      Machine machine(target, threads);
      for (const int64_t vocab : {1, 2, 15, 16, 17, 50257}) {
        const Tensor logits = random_tensor({20, vocab}, 1, 8.0f, -200.0f);
        std::vector<int32_t> ids;
        for (int64_t n = 0; n < 20; ++n) ids.push_back(static_cast<int32_t>(n * 7919 % vocab));
        const Tensor nll =
            ops::cross_entropy(machine.ctx, machine.on(logits), ops::target_ids(machine.ctx, ids, vocab)).to_host();
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
  const std::vector<int32_t> ids = {0, 1};
  const Tensor nll = ops::cross_entropy(machine.ctx, logits, ops::target_ids(machine.ctx, ids, 3));
  EXPECT_EQ(nll.f32()[0], 0.0f);
  EXPECT_EQ(nll.f32()[1], 0.0f);
  EXPECT_EQ(ops::cross_entropy(machine.ctx, Tensor({0, 3}, DType::kF32), ops::target_ids(machine.ctx, {}, 3)).dim(0),
            0);
}

TEST(CrossEntropy, TakesTargetsOfItsLogitsAlone) {
  Machine machine;
  const Tensor logits = random_tensor({2, 3}, 1);
  const std::vector<int32_t> two = {0, 2}, one = {0}, negative = {-1, 0};
  EXPECT_EQ(ops::cross_entropy(machine.ctx, logits, ops::target_ids(machine.ctx, two, 3)).dim(0), 2);
  EXPECT_THROW(ops::cross_entropy(machine.ctx, logits, ops::target_ids(machine.ctx, two, 4)), Error);
  EXPECT_THROW(ops::cross_entropy(machine.ctx, logits, ops::target_ids(machine.ctx, one, 3)), Error);
  EXPECT_THROW(ops::target_ids(machine.ctx, negative, 3), Error);
}

}  // namespace
}  // namespace carousel
