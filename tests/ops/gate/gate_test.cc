// SPDX-License-Identifier: Apache-2.0
// Gated units and the soft cap against f64; odd widths, extremes, threads.
#include "carousel/ops/gate/gate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "tests/ops/gate/gate_reference.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

TEST(Swiglu, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const int64_t width : {1, 3, 16, 17, 704, 1001}) {
      const Tensor x = random_tensor({5, 2 * width}, 1, 4.0f);
      const Tensor y = ops::swiglu(machine.ctx, machine.on(x)).to_host();
      ASSERT_EQ(y.dim(1), width);
      for (int64_t n = 0; n < 5; ++n) {
        for (int64_t j = 0; j < width; ++j) {
          const double gate = x.f32()[n * 2 * width + j], up = x.f32()[n * 2 * width + width + j];
          const double expected = gate / (1 + std::exp(-gate)) * up;
          ASSERT_NEAR(y.f32()[n * width + j], expected, 6e-7 * std::abs(expected));  // 5 roundings of 2^-24, exp 1.5
        }
      }
    }
  }
}

TEST(Swiglu, ExtremesAndThreads) {
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    const Tensor x = random_tensor({300, 2 * 513}, 2, 100.0f);
    const Tensor y = ops::swiglu(one.ctx, one.on(x)).to_host();
    EXPECT_TRUE(same_bits(y, ops::swiglu(three.ctx, three.on(x)).to_host()));
    EXPECT_TRUE(same_bits(ops::swiglu(one.ctx, one.on(x.rows(17, 18))).to_host(), y.rows(17, 18)));
    for (int64_t j = 0; j < y.count(); ++j) ASSERT_TRUE(std::isfinite(y.f32()[j]));
    EXPECT_EQ(ops::swiglu(one.ctx, Tensor({0, 6}, DType::kF32)).dim(0), 0);
    EXPECT_THROW(ops::swiglu(one.ctx, Tensor({1, 5}, DType::kF32)), Error);
  }
}

TEST(SoftCap, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const float cap : {30.0f, 15.0f, 0.5f}) {
      const Tensor x = random_tensor({3, 50001}, 3, 40.0f);
      x.f32()[0] = 1e-20f;
      x.f32()[1] = 3e38f;
      x.f32()[2] = -3e38f;
      const Tensor y = ops::soft_cap(machine.ctx, machine.on(x.clone()), cap).to_host();
      for (int64_t j = 0; j < x.count(); ++j) {
        const double expected = cap * std::tanh(double{x.f32()[j]} / cap);
        ASSERT_NEAR(y.f32()[j], expected, 4e-7 * std::abs(expected));
        ASSERT_LE(std::abs(y.f32()[j]), cap);
      }
    }
  }
}

TEST(GateHeads, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    const Tensor x = random_tensor({7, 3 * 21}, 4), gate_pre = random_tensor({7, 3}, 5, 3.0f);
    const Tensor y = ops::gate_heads(machine.ctx, machine.on(x), machine.on(gate_pre)).to_host();
    for (int64_t j = 0; j < x.count(); ++j) {
      const double expected = x.f32()[j] / (1 + std::exp(-double{gate_pre.f32()[j / 21]}));
      ASSERT_NEAR(y.f32()[j], expected, 4e-7 * std::abs(expected));  // exp, a division, a product
    }
    EXPECT_THROW(ops::gate_heads(machine.ctx, y, Tensor({7, 4}, DType::kF32)), Error);
    EXPECT_THROW(ops::gate_heads(machine.ctx, y, Tensor({6, 3}, DType::kF32)), Error);
  }
}

TEST(Elementwise, ReluAndAdd) {
  for (const Target& target : targets()) {
    Machine machine(target);
    const Tensor x = random_tensor({5, 19}, 6), y = random_tensor({5, 19}, 7);
    const Tensor positive = ops::relu(machine.ctx, machine.on(x)).to_host();
    const Tensor sum = ops::add(machine.ctx, machine.on(x), machine.on(y)).to_host();
    for (int64_t j = 0; j < x.count(); ++j) {
      EXPECT_EQ(positive.f32()[j], x.f32()[j] > 0 ? x.f32()[j] : 0.0f);
      EXPECT_EQ(sum.f32()[j], x.f32()[j] + y.f32()[j]);
    }
    EXPECT_THROW(ops::add(machine.ctx, x, Tensor({5, 18}, DType::kF32)), Error);
  }
}

TEST(SoftCap, CapMustBePositive) {
  Machine machine;
  EXPECT_THROW(ops::soft_cap(machine.ctx, Tensor({1, 1}, DType::kF32), 0.0f), Error);
  EXPECT_THROW(ops::soft_cap(machine.ctx, Tensor({1, 1}, DType::kF32), std::nanf("")), Error);
}

TEST(GatedUnit, EveryActivationAgreesWithF64) {
  using ops::Activation;
  for (const Target& target : targets()) {
    Machine machine(target);
    const Tensor x = random_tensor({5, 2 * 1001}, 3, 3.0f);
    for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kRelu, Activation::kRelu2,
                                        Activation::kSigmoid, Activation::kSelu, Activation::kGeluTanh}) {
      const Tensor y = ops::gated_unit(machine.ctx, machine.on(x), activation).to_host();
      for (int64_t n = 0; n < 5; ++n) {
        for (int64_t j = 0; j < 1001; ++j) {
          const double gate = x.f32()[n * 2002 + j], up = x.f32()[n * 2002 + 1001 + j];
          // Absolute in units of the gate: 1 + erf cancels far below zero, as in float32 references.
          const double tolerance = 1e-6 * std::max(1.0, std::abs(gate * gate)) * std::max(1e-3, std::abs(up));
          ASSERT_NEAR(y.f32()[n * 1001 + j], activation_reference(activation, gate) * up, tolerance) << gate;
        }
      }
    }
  }
}

}  // namespace
}  // namespace carousel
