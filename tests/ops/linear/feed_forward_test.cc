// SPDX-License-Identifier: Apache-2.0
// ops::feed_forward has the bits of its three steps, whichever way it takes.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/feed_forward.h"
#include "carousel/ops/linear/linear.h"
#include "tests/isas.h"
#include "tests/ops/drawn.h"
#include "tests/ops/gradients.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using ops::Activation;

struct Network {
  Weight gate, up;  // [F, D]
  Weight down;      // [M, F]
};

Weight drawn(const Stream& stream, int64_t rows, int64_t cols, DType dtype, bool bias, uint64_t seed) {
  Weight weight(rows, cols, dtype, Weight::Layout::kPanels, *stream.memory);
  weight.write_rows(stream, 0, rows, normals(rows * cols, seed).data(), DType::kF32);
  if (bias) weight.bias = tensor_of(normals(rows, seed + 1), {rows}).to(*stream.memory);
  return weight;
}

Network network(const Stream& stream, int64_t D, int64_t F, int64_t M, DType units, DType down, bool bias) {
  return {drawn(stream, F, D, units, bias, 1), drawn(stream, F, D, units, bias, 3), drawn(stream, M, F, down, bias, 5)};
}

Tensor three_steps(Ctx& ctx, const Tensor& x, const Network& net, Activation activation) {
  const Tensor units = ops::gated_unit(ctx, ops::linear(ctx, x, {&net.gate, &net.up}), activation);
  return ops::linear(ctx, units, {&net.down});
}

Tensor one_call(Ctx& ctx, const Tensor& x, const Network& net, Activation activation) {
  return ops::feed_forward(ctx, x, net.gate, net.up, net.down, activation);
}

// 300 rows cross the slabs of x, 600 columns those of k; 100 and 33 units leave a part of a panel and of a block.
TEST(FeedForward, HasTheBitsOfItsSteps) {
  for (const Isa isa : tested_isas()) {
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      ThreadPool pool(3);
      const Stream stream{&Memory::host(), isa, &pool, compute};
      Arena arena;
      Ctx ctx{stream, arena};
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4}) {
        if (compute == Compute::kBF16 && dtype != DType::kBF16) continue;
        for (const auto& [D, F] : {std::pair{96, 33}, {600, 100}, {45, 352}}) {
          const Network net = network(stream, D, F, 70, dtype, dtype, F != 100);
          for (const int64_t N : {0, 1, 64, 65, 71, 300}) {
            const Tensor x = tensor_of(normals(N * D, 7), {N, D});
            EXPECT_TRUE(
                same_bits(one_call(ctx, x, net, Activation::kSilu), three_steps(ctx, x, net, Activation::kSilu)))
                << cpu::isa_name(isa) << " " << dtype_name(dtype) << " D " << D << " F " << F << " N " << N;
          }
        }
      }
    }
  }
}

// A GPU forms the units of few rows where it streams the weights of both.
TEST(FeedForward, HasTheBitsOfItsStepsOnAGpu) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target, 2);
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      machine.stream.compute = compute;
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4}) {
        for (const auto& [D, F] : {std::pair{96, 33}, {608, 352}, {45, 352}, {2048, 4500}, {4128, 100}}) {
          const int64_t M = F == 352 ? 48 : 70;  // few outputs and more
          const Network net = network(machine.stream, D, F, M, dtype, dtype, F != 352);
          for (const int64_t N : {1, 2, 3, 4, 5, 9, 40}) {
            const Tensor x = machine.on(tensor_of(normals(N * D, 7), {N, D}));
            for (const Activation activation : {Activation::kSilu, Activation::kGelu}) {
              const Tensor whole = one_call(machine.ctx, x, net, activation).to_host();
              EXPECT_TRUE(same_bits(whole, three_steps(machine.ctx, x, net, activation).to_host()))
                  << dtype_name(dtype) << " D " << D << " F " << F << " N " << N;
            }
          }
        }
      }
    }
  }
}

TEST(FeedForward, TypesMayDiffer) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    for (const auto& [units, down] : {std::pair{DType::kQ8, DType::kQ4},
                                      {DType::kQ4, DType::kQ8},
                                      {DType::kQ8, DType::kF32},
                                      {DType::kBF16, DType::kF16},
                                      {DType::kF32, DType::kQ4}}) {
      Network net = network(machine.stream, 96, 64, 40, units, down, true);
      const Tensor x = random_tensor({80, 96}, 1);
      EXPECT_TRUE(same_bits(one_call(machine.ctx, x, net, Activation::kSilu),
                            three_steps(machine.ctx, x, net, Activation::kSilu)));
      net.up = drawn(machine.stream, 64, 96, DType::kF16, false, 9);  // beside a gate of another type
      EXPECT_TRUE(same_bits(one_call(machine.ctx, x, net, Activation::kSilu),
                            three_steps(machine.ctx, x, net, Activation::kSilu)));
    }
  }
}

TEST(FeedForward, EveryActivationAndProfile) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    const Network net = network(machine.stream, 32, 70, 33, DType::kQ8, DType::kQ8, true);
    const Tensor x = random_tensor({70, 32}, 1);
    Numerics tanh_gelu = Numerics::native(), rounding = Numerics::native();
    tanh_gelu.gelu_tanh = true;
    rounding.activations = DType::kBF16;
    for (const Numerics* numerics :
         std::initializer_list<const Numerics*>{&Numerics::native(), &tanh_gelu, &rounding}) {
      Ctx ctx{machine.stream, machine.arena, *numerics};
      for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kRelu, Activation::kRelu2,
                                          Activation::kSigmoid, Activation::kSelu, Activation::kGeluTanh}) {
        EXPECT_TRUE(same_bits(one_call(ctx, x, net, activation), three_steps(ctx, x, net, activation)));
      }
    }
  }
}

TEST(FeedForward, NeitherThreadsNorNeighboursChangeABit) {
  for (const Isa isa : tested_isas()) {
    Machine one(isa, 1), four(isa, 4);
    for (const DType dtype : {DType::kBF16, DType::kQ8, DType::kQ4}) {
      const Network net = network(one.stream, 64, 200, 40, dtype, dtype, false);
      const Tensor x = random_tensor({520, 64}, 1);
      const Tensor y = one_call(one.ctx, x, net, Activation::kSilu);
      EXPECT_TRUE(same_bits(one_call(four.ctx, x, net, Activation::kSilu), y));
      EXPECT_TRUE(same_bits(one_call(four.ctx, x.rows(100, 200), net, Activation::kSilu), y.rows(100, 200)));
      EXPECT_TRUE(same_bits(one_call(four.ctx, x.rows(300, 301), net, Activation::kSilu), y.rows(300, 301)));
      x.f32()[7 * 64 + 3] = std::numeric_limits<float>::quiet_NaN();
      const Tensor z = one_call(four.ctx, x, net, Activation::kSilu);
      for (int64_t i = 0; i < z.count(); ++i) ASSERT_EQ(std::isnan(z.f32()[i]), i / 40 == 7);
    }
  }
}

TEST(FeedForward, RefusesWrongShapes) {
  Machine machine;
  Network net = network(machine.stream, 32, 64, 32, DType::kF32, DType::kF32, false);
  for (const int64_t N : {1, 70}) {
    const Tensor x = random_tensor({N, 32}, 1);
    EXPECT_THROW(one_call(machine.ctx, random_tensor({N, 31}, 1), net, Activation::kSilu), Error);
    Network wrong = net;
    wrong.up = drawn(machine.stream, 32, 32, DType::kF32, false, 1);
    EXPECT_THROW(one_call(machine.ctx, x, wrong, Activation::kSilu), Error);
    wrong = net;
    wrong.down = drawn(machine.stream, 32, 63, DType::kF32, false, 1);
    EXPECT_THROW(one_call(machine.ctx, x, wrong, Activation::kSilu), Error);
  }
}

TEST(FeedForward, UnderATapeHasTheBitsAndTheGradientOfItsSteps) {
  for (const Isa isa : tested_isas()) {
    Machine plain(isa);
    Taped one(isa), three(isa);
    const Tensor values = random_tensor({71, 45}, 1), d = random_tensor({71, 70}, 2);
    const Tensor masters[] = {random_tensor({33, 45}, 3), random_tensor({33, 45}, 4), random_tensor({70, 33}, 5)};
    const auto packed = [&](const Tensor& master) {
      return Weight::of_master(plain.stream, master, Weight::Layout::kPanels);
    };
    const Network net = {packed(masters[0]), packed(masters[1]), packed(masters[2])};
    std::vector<std::shared_ptr<std::vector<float>>> of_one, of_three;
    for (const Tensor& master : masters) {
      of_one.push_back(one.parameter(master));
      of_three.push_back(three.parameter(master));
    }
    const Tensor x = one.input(values), x_three = three.input(values);
    const Tensor y = one_call(one.ctx, x, net, Activation::kGelu);
    EXPECT_TRUE(same_bits(y, one_call(plain.ctx, values, net, Activation::kGelu)));
    one.backward({{y, d}});
    three.backward({{three_steps(three.ctx, x_three, net, Activation::kGelu), d}});
    EXPECT_TRUE(same_bits(one.gradient(x), three.gradient(x_three)));
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(*of_one[i], *of_three[i]);
  }
}

}  // namespace
}  // namespace carousel
