// SPDX-License-Identifier: Apache-2.0
// Routing and experts against f64, and their promise: a row has the same bits whatever the others choose, and experts
// that nobody chose are not read.
#include "carousel/ops/moe/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "carousel/core/error.h"
#include "tests/isas.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using ops::MoeExpert;
using ops::MoeRoutes;
using ops::MoeRouting;

struct Choice {
  std::vector<int64_t> experts;  // ascending
  std::vector<double> weights;
};

Choice reference_route(const float* logits, int64_t count, const MoeRouting& routing) {
  std::vector<double> s, key;
  for (int64_t e = 0; e < count; ++e) {
    s.push_back(1 / (1 + std::exp(-double{logits[e]})));
    key.push_back(s.back() + (routing.expert_bias.defined() ? double{routing.expert_bias.f32()[e]} : 0.0));
  }
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return key[static_cast<size_t>(a)] > key[static_cast<size_t>(b)]; });
  Choice choice;
  choice.experts.assign(order.begin(), order.begin() + routing.top_k);
  std::sort(choice.experts.begin(), choice.experts.end());
  double sum = 0;
  for (const int64_t e : choice.experts) sum += s[static_cast<size_t>(e)];
  for (const int64_t e : choice.experts) {
    const double share = routing.normalise ? s[static_cast<size_t>(e)] / (sum + 1e-6) : s[static_cast<size_t>(e)];
    choice.weights.push_back(share * double{routing.scale});
  }
  return choice;
}

Weight random_weight(const Stream& stream, int64_t rows, int64_t cols, uint64_t seed, DType dtype) {
  Weight weight(rows, cols, dtype, Weight::Layout::kPanels, *stream.memory);
  const Tensor values = random_tensor({rows, cols}, seed, 1 / std::sqrt(static_cast<float>(cols)));
  weight.write_rows(stream, 0, rows, values.raw(), DType::kF32);
  return weight;
}

std::vector<MoeExpert> random_experts(const Stream& stream, size_t count, int64_t width, int64_t hidden,
                                      DType dtype = DType::kF32) {
  std::vector<MoeExpert> experts(count);
  uint64_t seed = 900;
  for (MoeExpert& expert : experts) {
    expert.gate = random_weight(stream, hidden, width, ++seed, dtype);
    expert.up = random_weight(stream, hidden, width, ++seed, dtype);
    expert.down = random_weight(stream, width, hidden, ++seed, dtype);
  }
  return experts;
}

std::vector<double> times(const Weight& weight, const std::vector<double>& x) {
  std::vector<float> row(static_cast<size_t>(weight.cols()));
  std::vector<double> y;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    weight.read_rows(r, 1, row.data());
    y.push_back(std::inner_product(x.begin(), x.end(), row.begin(), 0.0));
  }
  return y;
}

std::vector<double> reference_expert(const MoeExpert& expert, const std::vector<double>& x) {
  std::vector<double> hidden = times(expert.gate, x);
  const std::vector<double> up = times(expert.up, x);
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= up[i] / (1 + std::exp(-hidden[i]));
  return times(expert.down, hidden);
}

MoeRouting on(const Machine& machine, MoeRouting routing) {
  routing.expert_bias = machine.on(routing.expert_bias);
  return routing;
}
/// The op on tensors of the host.
MoeRoutes route(Machine& machine, const Tensor& logits, const MoeRouting& routing) {
  const MoeRoutes routes = ops::moe_route(machine.ctx, machine.on(logits), on(machine, routing));
  return {routes.experts.to_host(), routes.weights.to_host()};
}

TEST(MoeRoute, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const int64_t count : {1, 2, 6, 17, 64}) {
      for (const int64_t top_k : {int64_t{1}, std::min<int64_t>(count, 4), count}) {
        for (const bool plain : {true, false}) {
          MoeRouting routing;
          routing.top_k = top_k;
          routing.normalise = !plain;
          routing.scale = plain ? 2.5f : 1.0f;
          if (!plain) routing.expert_bias = random_tensor({count}, 7, 0.2f);
          const Tensor logits = random_tensor({50, count}, 3, 2.0f);
          const MoeRoutes routes = route(machine, logits, routing);
          for (int64_t n = 0; n < 50; ++n) {
            const Choice choice = reference_route(logits.f32() + n * count, count, routing);
            for (int64_t i = 0; i < top_k; ++i) {
              const auto at = static_cast<size_t>(i);
              ASSERT_EQ(routes.experts.i32()[n * top_k + i], choice.experts[at]);
              // exp, a division each for score and share, a sum of up to 64 terms: a few ulp more
              ASSERT_NEAR(routes.weights.f32()[n * top_k + i], choice.weights[at], 2e-6 * choice.weights[at]);
            }
          }
        }
      }
    }
  }
}

TEST(MoeRoute, BiasChoosesButDoesNotWeigh) {
  Machine machine;
  Tensor logits({1, 3}, DType::kF32);
  logits.f32()[0] = 2.0f;
  logits.f32()[1] = 1.0f;
  MoeRouting routing;
  routing.normalise = false;
  EXPECT_EQ(ops::moe_route(machine.ctx, logits, routing).experts.i32()[0], 0);
  routing.expert_bias = Tensor({3}, DType::kF32);
  routing.expert_bias.f32()[1] = 0.5f;
  const MoeRoutes routes = ops::moe_route(machine.ctx, logits, routing);
  EXPECT_EQ(routes.experts.i32()[0], 1);
  EXPECT_FLOAT_EQ(routes.weights.f32()[0], 1 / (1 + std::exp(-1.0f)));
}

TEST(MoeRoute, TiesGoToTheLowerIndex) {
  for (const Target& target : targets()) {
    Machine machine(target);
    MoeRouting routing;
    routing.top_k = 3;
    Tensor logits({1, 40}, DType::kF32);  // all equal
    logits.f32()[30] = 1.0f;
    const MoeRoutes routes = route(machine, logits, routing);
    EXPECT_EQ(routes.experts.i32()[0], 0);
    EXPECT_EQ(routes.experts.i32()[1], 1);
    EXPECT_EQ(routes.experts.i32()[2], 30);
  }
}

TEST(MoeRoute, ScoresThatAreNotNumbersStillChooseDistinctExperts) {
  for (const Target& target : targets()) {
    Machine machine(target);
    MoeRouting routing;
    routing.top_k = 4;
    const Tensor logits = random_tensor({1, 9}, 5);
    for (const int64_t e : {0, 3, 8}) logits.f32()[e] = std::nanf("");
    const MoeRoutes routes = route(machine, logits, routing);
    const int32_t* chosen = routes.experts.i32();
    for (int64_t i = 0; i < 4; ++i) {
      ASSERT_TRUE(chosen[i] >= 0 && chosen[i] < 9);
      if (i > 0) {
        ASSERT_LT(chosen[i - 1], chosen[i]);
      }
    }
  }
}

void expect_experts(Machine& machine, int64_t width, int64_t hidden, int64_t rows, DType dtype, double bound) {
  const std::vector<MoeExpert> experts = random_experts(machine.stream, 6, width, hidden, dtype);
  const Tensor x = random_tensor({rows, width}, 1);
  const Tensor logits = random_tensor({rows, 6}, 2, 2.0f);
  MoeRouting routing;
  routing.top_k = 2;
  const MoeRoutes routes = ops::moe_route(machine.ctx, machine.on(logits), routing);
  const Tensor y = ops::moe_experts(machine.ctx, machine.on(x), routes, experts).to_host();
  for (int64_t n = 0; n < rows; ++n) {
    const Choice choice = reference_route(logits.f32() + n * 6, 6, routing);
    const std::vector<double> x_n(x.f32() + n * width, x.f32() + (n + 1) * width);
    std::vector<double> expected(static_cast<size_t>(width), 0.0);
    for (size_t i = 0; i < 2; ++i) {
      const std::vector<double> out = reference_expert(experts[static_cast<size_t>(choice.experts[i])], x_n);
      for (size_t j = 0; j < out.size(); ++j) expected[j] += choice.weights[i] * out[j];
    }
    ASSERT_LT(relative_error(y.f32() + n * width, expected), bound) << dtype_name(dtype);
  }
}

TEST(MoeExperts, AgreeWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    expect_experts(machine, 21, 37, 40, DType::kF32, 2e-6);  // chains of 21 and 37 terms
  }
}

// In f32 a GPU multiplies blocks of weights with x as it is. In bf16 both factors of many rows are rounded to 2^-9, and
// so are the units. 2 rows have fewer choices than there are experts.
TEST(MoeExperts, AgreeWithF64InEveryTypeOfAGpu) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target);
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      machine.stream.compute = compute;
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4}) {
        const bool floats = compute == Compute::kF32 || dtype == DType::kF32 || dtype == DType::kF16;
        for (const int64_t rows : {2, 40, 500}) {
          const bool exact = floats || (is_block(dtype) && rows == 2);
          expect_experts(machine, 64, 96, rows, dtype, exact ? 2e-6 : 8e-3);
          expect_experts(machine, 36, 50, rows, dtype, floats || is_block(dtype) ? 2e-6 : 8e-3);
        }
      }
    }
  }
}

// 1200 rows: more than one group of an expert that most of them choose.
TEST(MoeExperts, NeighboursAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    const int64_t rows = 1200, width = 16;
    const std::vector<MoeExpert> experts = random_experts(one.stream, 5, width, 24);
    const Tensor x = random_tensor({rows, width}, 1);
    const Tensor logits = random_tensor({rows, 5}, 2);
    MoeRouting routing;
    routing.top_k = 2;
    routing.expert_bias = Tensor({5}, DType::kF32);
    routing.expert_bias.f32()[3] = 0.5f;
    const auto run = [&](Machine& machine, int64_t begin, int64_t end) {
      const MoeRoutes routes = ops::moe_route(machine.ctx, machine.on(logits.rows(begin, end)), on(machine, routing));
      return ops::moe_experts(machine.ctx, machine.on(x.rows(begin, end)), routes, experts).clone().to_host();
    };
    const Tensor whole = run(three, 0, rows);
    EXPECT_TRUE(same_bits(run(one, 0, rows), whole));
    EXPECT_TRUE(same_bits(run(one, 100, 107), whole.rows(100, 107)));
    for (int64_t n = 0; n < 64; ++n) ASSERT_TRUE(same_bits(run(three, n, n + 1), whole.rows(n, n + 1))) << n;
  }
}

// A weight on the meta device has no memory: reading it would crash.
TEST(MoeExperts, WeightsNobodyChoseAreNotRead) {
  Machine machine;
  std::vector<MoeExpert> experts = random_experts(machine.stream, 4, 8, 8);
  for (const size_t e : {0, 2}) {
    for (Weight* weight : {&experts[e].gate, &experts[e].up, &experts[e].down})
      *weight = Weight(8, 8, DType::kF32, Weight::Layout::kPanels, Memory::meta());
  }
  MoeRouting routing;
  routing.top_k = 2;
  routing.expert_bias = Tensor({4}, DType::kF32);
  routing.expert_bias.f32()[1] = routing.expert_bias.f32()[3] = 2.0f;
  const Tensor x = random_tensor({9, 8}, 1);
  const MoeRoutes routes = ops::moe_route(machine.ctx, random_tensor({9, 4}, 2), routing);
  const Tensor y = ops::moe_experts(machine.ctx, x, routes, experts);
  for (int64_t j = 0; j < y.count(); ++j) ASSERT_TRUE(std::isfinite(y.f32()[j]));
}

// Routing decides which rows meet which expert, never how much memory a forward takes.
TEST(MoeExperts, MemoryDoesNotDependOnTheChoices) {
  Machine machine;
  const std::vector<MoeExpert> experts = random_experts(machine.stream, 4, 300, 500);
  MoeRouting routing;
  size_t first = 0;
  for (uint64_t seed = 1; seed < 6; ++seed) {
    routing.expert_bias = random_tensor({4}, seed, 0.1f);
    const MoeRoutes routes = ops::moe_route(machine.ctx, random_tensor({40, 4}, seed), routing);
    ops::moe_experts(machine.ctx, random_tensor({40, 300}, seed), routes, experts);
    if (seed == 1) first = machine.arena.size_bytes();
    EXPECT_EQ(machine.arena.size_bytes(), first);
  }
}

TEST(MoeExperts, WrongArgumentsAreRefused) {
  Machine machine;
  const std::vector<MoeExpert> experts = random_experts(machine.stream, 2, 8, 8);
  MoeRouting routing;
  routing.top_k = 3;
  EXPECT_THROW(ops::moe_route(machine.ctx, Tensor({1, 2}, DType::kF32), routing), Error);
  routing.top_k = 1;
  routing.expert_bias = Tensor({3}, DType::kF32);
  EXPECT_THROW(ops::moe_route(machine.ctx, Tensor({1, 2}, DType::kF32), routing), Error);
  routing.expert_bias = Tensor();
  const MoeRoutes routes = ops::moe_route(machine.ctx, Tensor({1, 2}, DType::kF32), routing);
  EXPECT_THROW(ops::moe_experts(machine.ctx, Tensor({2, 8}, DType::kF32), routes, experts), Error);
  EXPECT_THROW(ops::moe_experts(machine.ctx, Tensor({1, 8}, DType::kF32), routes, {}), Error);
  routes.experts.i32()[0] = 2;
  EXPECT_THROW(ops::moe_experts(machine.ctx, Tensor({1, 8}, DType::kF32), routes, experts), Error);
  const MoeRoutes none = ops::moe_route(machine.ctx, Tensor({0, 2}, DType::kF32), routing);
  EXPECT_EQ(ops::moe_experts(machine.ctx, Tensor({0, 8}, DType::kF32), none, experts).dim(0), 0);
}

}  // namespace
}  // namespace carousel
