// SPDX-License-Identifier: Apache-2.0
// Gradients of the elementwise gates against central differences in f64, and their bits.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/ops/gate/gate.h"
#include "tests/isas.h"
#include "tests/ops/gate/gate_reference.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using ops::Activation;

constexpr Activation kActivations[] = {Activation::kSilu,    Activation::kGelu, Activation::kRelu,
                                       Activation::kRelu2,   Activation::kSelu, Activation::kSigmoid,
                                       Activation::kGeluTanh};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct UnitResult {
  Tensor out, d_gate_up;
};
UnitResult run_unit(Taped& t, const Tensor& gate_up, const Tensor& d, Activation kind) {
  const Tensor x = t.input(gate_up), out = ops::gated_unit(t.ctx, x, kind);
  t.backward({{out, d}});
  return {out, t.gradient(x)};
}

TEST(GatedUnitBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const Activation kind : kActivations) {
      for (const int64_t width : {1, 17, 64, 131}) {
        Taped t(isa);
        const Tensor gate_up = random_tensor({67, 2 * width}, 1, 1.5f), d = random_tensor({67, width}, 2);
        const UnitResult got = run_unit(t, gate_up, d, kind);
        Machine plain(isa);
        EXPECT_TRUE(same_bits(got.out, ops::gated_unit(plain.ctx, gate_up, kind)));
        std::vector<double> at = to_f64(gate_up);
        const auto w = static_cast<size_t>(width);
        const auto loss = [&] {
          std::vector<double> out(67 * w);
          for (size_t i = 0; i < out.size(); ++i) {
            const size_t first = i / w * 2 * w + i % w;
            out[i] = activation_reference(kind, at[first]) * at[first + w];
          }
          return weighted_sum(d, out);
        };
        EXPECT_LT(gradient_error(loss, at, got.d_gate_up.f32()), 1e-6) << int(kind) << " width " << width;
      }
    }
  }
}

TEST(GatedUnitBackward, ThreadsAndNeighboursChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    for (const Activation kind : kActivations) {
      Taped one(isa, 1), three(isa, 3), alone(isa, 2);
      const Tensor gate_up = random_tensor({300, 2 * 131}, 1, 40.0f), d = random_tensor({300, 131}, 2);
      const Tensor whole = run_unit(one, gate_up, d, kind).d_gate_up;
      EXPECT_TRUE(same_bits(run_unit(three, gate_up, d, kind).d_gate_up, whole));
      EXPECT_TRUE(same_bits(run_unit(alone, gate_up.rows(17, 29), d.rows(17, 29), kind).d_gate_up, whole.rows(17, 29)));
      for (int64_t i = 0; i < whole.count(); ++i) ASSERT_TRUE(std::isfinite(whole.f32()[i]));
    }
  }
}

TEST(SoftCapBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const float cap : {30.0f, 1.5f}) {
      Taped t(isa), one(isa, 1);
      const Tensor values = random_tensor({67, 131}, 3, 1.5f), d = random_tensor({67, 131}, 4);
      const Tensor x = t.input(values), out = ops::soft_cap(t.ctx, x, cap), capped = values.clone();
      Machine plain(isa);
      EXPECT_EQ(ops::soft_cap(plain.ctx, capped, cap).raw(), capped.raw());
      EXPECT_TRUE(same_bits(out, capped));
      EXPECT_TRUE(same_bits(x, values));
      t.backward({{out, d}});
      std::vector<double> at = to_f64(values);
      const auto loss = [&] {
        std::vector<double> y(at.size());
        for (size_t i = 0; i < y.size(); ++i) y[i] = cap * std::tanh(at[i] / cap);
        return weighted_sum(d, y);
      };
      const Tensor d_x = t.gradient(x);
      EXPECT_LT(gradient_error(loss, at, d_x.f32()), 1e-6) << cap;
      const Tensor again = one.input(values);
      one.backward({{ops::soft_cap(one.ctx, again, cap), d}});
      EXPECT_TRUE(same_bits(one.gradient(again), d_x));
    }
  }
}

TEST(SoftCapBackward, WhatNobodyNeedsIsCappedInPlace) {
  Taped t;
  const Tensor x = random_tensor({3, 5}, 1);
  EXPECT_EQ(ops::soft_cap(t.ctx, x, 2.0f).raw(), x.raw());
  EXPECT_EQ(t.tape.nodes(), 0u);
}

TEST(GateHeadsBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const int64_t dim : {1, 21, 64}) {
      const int64_t heads = 3;
      const Tensor x = random_tensor({67, heads * dim}, 5), pre = random_tensor({67, heads}, 6);
      const Tensor d = random_tensor({67, heads * dim}, 7);
      Taped t(isa), one(isa, 1);
      Machine plain(isa);
      const Tensor x_t = t.input(x), pre_t = t.input(pre), out = ops::gate_heads(t.ctx, x_t, pre_t);
      EXPECT_TRUE(same_bits(out, ops::gate_heads(plain.ctx, x, pre)));
      t.backward({{out, d}});
      std::vector<double> at = to_f64(x), at_pre = to_f64(pre);
      const auto loss = [&] {
        std::vector<double> y(at.size());
        for (size_t i = 0; i < y.size(); ++i) y[i] = at[i] * sigmoid(at_pre[i / static_cast<size_t>(dim)]);
        return weighted_sum(d, y);
      };
      const Tensor d_x = t.gradient(x_t), d_pre = t.gradient(pre_t);
      EXPECT_LT(gradient_error(loss, at, d_x.f32()), 1e-6) << dim;
      EXPECT_LT(gradient_error(loss, at_pre, d_pre.f32()), 1e-6) << dim;
      const Tensor pre_alone = one.input(pre);  // only the gate is trained
      one.backward({{ops::gate_heads(one.ctx, x, pre_alone), d}});
      EXPECT_TRUE(same_bits(one.gradient(pre_alone), d_pre));
    }
  }
}

}  // namespace
}  // namespace carousel
