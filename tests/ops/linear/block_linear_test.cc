// SPDX-License-Identifier: Apache-2.0
// ops::block_linear against f64 for narrow and wide blocks; rows and threads change no bit.
#include "carousel/ops/linear/block_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

struct Shapes {
  int64_t blocks, size;
};
constexpr Shapes kShapes[] = {{1, 1}, {37, 1}, {32, 4}, {5, 3}, {16, 8}, {2, 31}, {1, 32}, {3, 33}, {2, 128}};

/// The same weight on the target.
ops::BlockWeight on(const Machine& machine, const ops::BlockWeight& weight) {
  return formed(ops::BlockWeight(machine.on(weight.master()), machine.on(weight.bias())));
}

TEST(BlockLinear, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const auto& [blocks, size] : kShapes) {
      const int64_t width = blocks * size, rows = 7;
      const Tensor x = random_tensor({rows, width + 5}, 1), w = random_tensor({blocks, size, size}, 2);
      const Tensor bias = random_tensor({width}, 3);
      const ops::BlockWeight with_bias = on(machine, formed(ops::BlockWeight(w, bias)));
      const ops::BlockWeight without = on(machine, formed(ops::BlockWeight(w, Tensor())));
      const Tensor x_there = machine.on(x);
      const Columns own = columns(x_there, 5, width), shifted = columns(x_there, 4, width);
      const Tensor y =
          ops::block_linear(machine.ctx, {{own, &with_bias}, {own, &without}, {shifted, &without}}).to_host();
      const Tensor alone = ops::block_linear(machine.ctx, {{shifted, &without}}).to_host();
      for (int64_t n = 0; n < rows; ++n) {
        std::vector<double> plain, biased;
        for (int64_t j = 0; j < width; ++j) {
          double sum = 0;
          for (int64_t d = 0; d < size; ++d) {
            sum += double{w.f32()[j * size + d]} * x.f32()[n * (width + 5) + 5 + j / size * size + d];
          }
          plain.push_back(sum);
          biased.push_back(sum + bias.f32()[j]);
        }
        const float* y_n = y.f32() + n * 3 * width;
        EXPECT_LT(relative_error(y_n, biased), 2e-6) << blocks << " of " << size;
        EXPECT_LT(relative_error(y_n + width, plain), 2e-6) << blocks << " of " << size;
        EXPECT_TRUE(same_bits(y_n + 2 * width, alone.f32() + n * width, width)) << blocks << " of " << size;
      }
    }
  }
}

// As the sLSTM layer has them: one bias [H, 4, dh] for four projections.
TEST(BlockLinear, ABiasMayLieBetweenOthers) {
  for (const auto& [blocks, size] : kShapes) {
    Machine machine;
    const Tensor w = random_tensor({blocks, size, size}, 2), all = random_tensor({blocks * 4 * size}, 3);
    Tensor own(Shape{blocks * size}, DType::kF32);
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t j = 0; j < size; ++j) own.f32()[b * size + j] = all.f32()[(b * 4 + 2) * size + j];
    }
    const auto between = formed(ops::BlockWeight(w, ops::BlockBias{all, 2 * size, 4 * size}));
    const auto alone = formed(ops::BlockWeight(w, own));
    const Tensor x = random_tensor({3, blocks * size}, 4);
    const Tensor a = ops::block_linear(machine.ctx, {{columns(x), &between}});
    const Tensor b = ops::block_linear(machine.ctx, {{columns(x), &alone}});
    EXPECT_TRUE(same_bits(a, b)) << blocks << " of " << size;
    EXPECT_THROW(ops::BlockWeight(w, ops::BlockBias{all, 4 * size, 4 * size}), Error);
  }
}

TEST(BlockLinear, RowsAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    Machine one(target, 1), four(target, 4);
    for (const auto& [blocks, size] : kShapes) {
      const int64_t width = blocks * size;
      const Tensor x = random_tensor({300, width}, 4);
      const ops::BlockWeight weight =
          on(one, formed(ops::BlockWeight(random_tensor({blocks, size, size}, 5), Tensor())));
      const auto run = [&](Machine& machine, const Tensor& of) {
        return ops::block_linear(machine.ctx, {{machine.on(columns(of)), &weight}}).to_host();
      };
      const Tensor a = run(one, x);
      EXPECT_TRUE(same_bits(a, run(four, x)));
      EXPECT_TRUE(same_bits(a.rows(7, 8), run(four, x.rows(7, 8))));
    }
  }
}

TEST(BlockLinear, WrongShapesAreRefused) {
  Machine machine;
  EXPECT_THROW(ops::BlockWeight(Tensor({2, 3, 4}, DType::kF32), Tensor()), Error);
  EXPECT_THROW(ops::BlockWeight(Tensor({2, 4, 4}, DType::kF32), Tensor({7}, DType::kF32)), Error);
  const ops::BlockWeight weight = formed(ops::BlockWeight(Tensor({2, 4, 4}, DType::kF32), Tensor()));
  const ops::BlockWeight other = formed(ops::BlockWeight(Tensor({4, 2, 2}, DType::kF32), Tensor()));
  const Tensor x({3, 8}, DType::kF32), fewer({2, 8}, DType::kF32);
  EXPECT_THROW(ops::block_linear(machine.ctx, {}), Error);
  EXPECT_THROW(ops::block_linear(machine.ctx, {{columns(x), &weight}, {columns(x), &other}}), Error);
  EXPECT_THROW(ops::block_linear(machine.ctx, {{columns(x), &weight}, {columns(fewer), &weight}}), Error);
  EXPECT_THROW(ops::block_linear(machine.ctx, {{columns(x, 0, 7), &weight}}), Error);
}

}  // namespace
}  // namespace carousel
