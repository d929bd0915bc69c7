// SPDX-License-Identifier: Apache-2.0
// The tape: who needs a gradient, what is kept, how gradients of one tensor join. Ops here are copies of columns, whose
// gradients are known at sight.
#include "carousel/ops/tape.h"

#include <gtest/gtest.h>

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

struct Copying : Taped {
  /// factor * columns of x, by hand.
  Tensor scaled(const Tensor& x, int64_t first, int64_t count, float factor) {
    const Tensor y = arena.empty({x.dim(0), count});
    const int64_t width = x.dim(1);
    for (int64_t n = 0; n < x.dim(0); ++n) {
      for (int64_t j = 0; j < count; ++j) y.f32()[n * count + j] = factor * x.f32()[n * width + first + j];
    }
    tape.record(ctx, "scaled", {x}, {y}, [=, this](Ctx& inner, std::span<const Tensor> d, Grads& out) {
      ++runs;
      const View d_x = view(out.write(inner, columns(x, first, count)));
      for (int64_t n = 0; n < x.dim(0); ++n) {
        for (int64_t j = 0; j < count; ++j) d_x.f32()[n * d_x.stride + j] = factor * d[0].f32()[n * count + j];
      }
    });
    return y;
  }

  void run(const Tensor& loss) {
    Tensor ones(loss.shape(), DType::kF32);
    for (int64_t i = 0; i < ones.count(); ++i) ones.f32()[i] = 1;
    backward({{loss, ones}});
  }

  int runs = 0;
};

void expect_rows(const Tensor& got, const std::vector<float>& row) {
  ASSERT_TRUE(got.defined());
  for (int64_t i = 0; i < got.count(); ++i) EXPECT_EQ(got.f32()[i], row[static_cast<size_t>(i % got.dim(-1))]) << i;
}

TEST(Tape, WhatNobodyTrainedNeedsKeepsNothing) {
  Copying t;
  const Tensor x = t.arena.empty({2, 3});
  const long owners = x.owners();
  const Tensor y = t.scaled(x, 0, 3, 2);
  EXPECT_EQ(t.tape.nodes(), 0u);
  EXPECT_FALSE(t.tape.needs(y));
  EXPECT_EQ(x.owners(), owners);
}

TEST(Tape, ColumnsOfOneTensorFormItsGradientAndTheRestIsZero) {
  Copying t;
  const Tensor x = t.input(random_tensor({70, 7}, 1));
  const Tensor a = t.scaled(x, 1, 2, 3), b = t.scaled(x, 5, 1, -2);
  const Tensor sum = t.scaled(a, 0, 1, 1), both = ops::add(t.ctx, sum, b);
  t.run(both);
  expect_rows(t.gradient(x), {0, 3, 0, 0, 0, -2, 0});
}

TEST(Tape, ATensorReadTwiceGetsTheSum) {
  Copying t;
  const Tensor x = t.input(random_tensor({5, 4}, 1));
  const Tensor a = t.scaled(x, 0, 3, 2), b = t.scaled(x, 1, 3, 5);  // columns 1 and 2 overlap
  t.run(ops::add(t.ctx, a, b));
  expect_rows(t.gradient(x), {2, 7, 7, 5});
}

TEST(Tape, ASharedGradientIsCopiedBeforeItChanges) {
  Copying t;
  const Tensor x = t.input(random_tensor({5, 4}, 1)), y = t.input(random_tensor({5, 4}, 2));
  const Tensor more = t.scaled(x, 0, 4, 10);
  const Tensor sum = ops::add(t.ctx, ops::add(t.ctx, x, y), more);  // x and y share one gradient; x then gets more
  t.run(sum);
  expect_rows(t.gradient(y), {1, 1, 1, 1});
  expect_rows(t.gradient(x), {11, 11, 11, 11});
}

TEST(Tape, NodesThatTheLossDoesNotDependOnDoNotRun) {
  Copying t;
  const Tensor x = t.input(random_tensor({5, 4}, 1));
  t.scaled(x, 0, 2, 10);
  t.run(t.scaled(x, 2, 2, 1));
  EXPECT_EQ(t.runs, 1);
  expect_rows(t.gradient(x), {0, 0, 1, 1});
  EXPECT_FALSE(t.gradient(x).defined());  // taken
}

// What the op gives does not matter to the loss; what it leaves in its states does.
TEST(Tape, ANodeWhoseStatesHaveAGradientRunsOnZeros) {
  Copying t;
  StateLayout layout;
  layout.add("0", {{"count", DType::kF32, Shape{1}}});
  State state;
  State* const states[] = {&state};
  StateBatch d_states;
  d_states.bind(layout, states, std::vector<int64_t>{2});
  const Tensor x = t.input(random_tensor({2, 3}, 1)), y = t.arena.empty({2, 3});
  int runs = 0;
  const auto counted = [&](Ctx&, std::span<const Tensor> d, Grads&) {
    ++runs;
    expect_rows(d[0], {0, 0, 0});
  };
  t.tape.record(t.ctx, "counted", {x}, {y}, counted, d_states.layer(0));
  t.tape.record(t.ctx, "stateless", {x}, {t.arena.empty({2, 3})},
                [](Ctx&, std::span<const Tensor>, Grads&) { ADD_FAILURE() << "ran"; });
  Grads grads(t.tape, &d_states);
  Ctx untaped = t.ctx;
  untaped.tape = nullptr;
  t.tape.backward(untaped, grads);
  EXPECT_EQ(runs, 1);
}

TEST(Tape, ANodeFreesWhatItKeptOnceItHasRun) {
  Copying t;
  Tensor x = t.input(random_tensor({5, 4}, 1));
  Tensor y = ops::relu(t.ctx, x);
  const long kept = x.owners();
  t.run(y);
  EXPECT_LT(x.owners(), kept);
  EXPECT_EQ(t.tape.nodes(), 0u);
  EXPECT_FALSE(t.tape.needs(y));
}

TEST(Tape, AMasterIsFoundByItsAddressAndAddedTo) {
  Copying t;
  const Tensor master = random_tensor({3}, 1), other = random_tensor({3}, 2);
  const auto gradient = t.parameter(master);
  EXPECT_TRUE(t.tape.needs(master));
  EXPECT_TRUE(t.tape.needs(master.reshape({1, 3})));
  EXPECT_FALSE(t.tape.needs(other));
  EXPECT_EQ(Grads(t.tape).parameter(master), gradient->data());
  EXPECT_EQ(Grads(t.tape).parameter(other), nullptr);
}

// Against central differences in f64, on more rows than one thread takes.
TEST(Tape, ReluAndAddHaveTheirGradients) {
  for (const Isa isa : tested_isas()) {
    Copying t;
    t.stream.isa = isa;
    const Tensor x = t.input(random_tensor({131, 67}, 1)), y = t.input(random_tensor({131, 67}, 2));
    t.run(ops::add(t.ctx, ops::relu(t.ctx, x), y));
    const Tensor d_x = t.gradient(x), d_y = t.gradient(y);
    for (int64_t i = 0; i < x.count(); ++i) {
      const double at = double{x.f32()[i]}, step = 1e-9;
      const double slope = (std::max(at + step, 0.0) - std::max(at - step, 0.0)) / (2 * step);
      ASSERT_NEAR(double{d_x.f32()[i]}, slope, 1e-6) << i;
      ASSERT_EQ(d_y.f32()[i], 1.0f);
    }
  }
}

TEST(Tape, KeepsTheBitsOfTheForward) {
  Machine plain;
  Copying t;
  const Tensor values = random_tensor({131, 67}, 1), x = t.input(values);
  EXPECT_TRUE(same_bits(ops::relu(plain.ctx, values), ops::relu(t.ctx, x)));
}

TEST(Tape, AProfileThatRoundsAndATapeExcludeEachOther) {
  Copying t;
  Numerics narrow;
  narrow.activations = DType::kBF16;
  Ctx ctx{t.stream, t.arena, narrow, nullptr, &t.tape};
  EXPECT_THROW(ops::relu(ctx, t.input(random_tensor({2, 3}, 1))), Error);
}

TEST(Tape, AnOpWithoutBackwardIsRefused) {
  Copying t;
  try {
    t.ctx.without_backward("ops::some");
    ADD_FAILURE() << "ran";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "ops::some: got a tape, and there is no gradient of this op yet");
  }
}

}  // namespace
}  // namespace carousel
