// SPDX-License-Identifier: Apache-2.0
// Gradients of a mixture of experts against central differences in f64, and their bits. The choice of experts is what
// the forward made it: it has no gradient.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/moe/moe.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using ops::MoeExpert;
using ops::MoeRoutes;
using ops::MoeRouting;

constexpr size_t kExperts = 5;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Masters of one expert: gate and up [F, D], down [D, F], and their biases, or empty.
struct Masters {
  Tensor gate, up, down, gate_bias, up_bias, down_bias;

  std::vector<Tensor> all() const {
    return gate_bias.defined() ? std::vector<Tensor>{gate, up, down, gate_bias, up_bias, down_bias}
                               : std::vector<Tensor>{gate, up, down};
  }
};

struct Model {
  int64_t width, hidden;
  std::vector<Masters> masters;
  MoeRouting routing;

  Model(int64_t D, int64_t F, bool biased) : width(D), hidden(F) {
    const auto drawn = [](Shape shape, uint64_t seed) {
      return random_tensor(shape, seed, 1 / std::sqrt(static_cast<float>(shape[-1])));
    };
    for (uint64_t e = 0; e < kExperts; ++e) {
      Masters expert = {drawn({F, D}, 100 + e), drawn({F, D}, 200 + e), drawn({D, F}, 300 + e), {}, {}, {}};
      if (biased) {
        expert.gate_bias = drawn({F}, 400 + e);
        expert.up_bias = drawn({F}, 500 + e);
        expert.down_bias = drawn({D}, 600 + e);
      }
      masters.push_back(expert);
    }
    routing.top_k = 2;
    routing.expert_bias = random_tensor({kExperts}, 7, 0.2f);
  }
  std::vector<MoeExpert> experts(const Stream& stream) const {
    std::vector<MoeExpert> list;
    for (const Masters& m : masters) {
      const auto weight = [&](const Tensor& master, const Tensor& bias) {
        Weight packed = Weight::of_master(stream, master, Weight::Layout::kPanels);
        packed.bias = bias;
        return packed;
      };
      list.push_back({weight(m.gate, m.gate_bias), weight(m.up, m.up_bias), weight(m.down, m.down_bias)});
    }
    return list;
  }
};

struct Gradients {
  Tensor x, logits;
  std::vector<std::vector<float>> parameters;  // in the order of the masters
  std::vector<int32_t> chosen;                 // [N * k]
};

/// Batches of rows cut at `cuts`, one after the other.
Gradients run(Isa isa, int threads, const Model& model, const Tensor& x, const Tensor& logits, const Tensor& d,
              const std::vector<int64_t>& cuts) {
  Taped t(isa, threads);
  Machine plain(isa, threads);
  std::vector<std::shared_ptr<std::vector<float>>> places;
  for (const Masters& m : model.masters) {
    for (const Tensor& master : m.all()) places.push_back(t.parameter(master));
  }
  const std::vector<MoeExpert> experts = model.experts(t.stream);
  Gradients out;
  std::vector<Tensor> d_x, d_logits;
  int64_t begin = 0;
  for (const int64_t end : cuts) {
    const Tensor x_t = t.input(x.rows(begin, end)), logits_t = t.input(logits.rows(begin, end));
    const MoeRoutes routes = ops::moe_route(t.ctx, logits_t, model.routing);
    const Tensor y = ops::moe_experts(t.ctx, x_t, routes, experts);
    const MoeRoutes plain_routes = ops::moe_route(plain.ctx, logits.rows(begin, end), model.routing);
    EXPECT_TRUE(same_bits(y, ops::moe_experts(plain.ctx, x.rows(begin, end), plain_routes, experts)));
    out.chosen.insert(out.chosen.end(), routes.experts.i32(), routes.experts.i32() + routes.experts.count());
    t.backward({{y, d.rows(begin, end)}});
    d_x.push_back(t.gradient(x_t).clone());
    d_logits.push_back(t.gradient(logits_t).clone());
    begin = end;
  }
  out.x = joined(d_x);
  out.logits = joined(d_logits);
  for (const auto& place : places) out.parameters.push_back(*place);
  return out;
}

/// Everything that the loss reads, in f64.
struct Values {
  std::vector<double> x, logits;
  std::vector<std::vector<double>> parameters;
};

std::vector<double> product(const std::vector<double>& weight, const std::vector<double>& x,
                            const std::vector<double>* bias) {
  std::vector<double> y(weight.size() / x.size());
  for (size_t i = 0; i < y.size(); ++i) {
    y[i] = bias != nullptr ? (*bias)[i] : 0;
    for (size_t j = 0; j < x.size(); ++j) y[i] += weight[i * x.size() + j] * x[j];
  }
  return y;
}

std::vector<double> outputs(const Model& model, const Values& values, const std::vector<int32_t>& chosen) {
  const auto D = static_cast<size_t>(model.width), k = static_cast<size_t>(model.routing.top_k);
  const size_t each = values.parameters.size() / kExperts;
  std::vector<double> y(values.x.size(), 0);
  for (size_t n = 0; n < values.x.size() / D; ++n) {
    const std::vector<double> x(values.x.begin() + std::ptrdiff_t(n * D), values.x.begin() + std::ptrdiff_t(n * D + D));
    double total = 1e-6;
    for (size_t i = 0; i < k; ++i) total += sigmoid(values.logits[n * kExperts + size_t(chosen[n * k + i])]);
    for (size_t i = 0; i < k; ++i) {
      const auto e = static_cast<size_t>(chosen[n * k + i]);
      const double s = sigmoid(values.logits[n * kExperts + e]);
      const double weight = double{model.routing.scale} * (model.routing.normalise ? s / total : s);
      const std::vector<double>* const own = &values.parameters[e * each];
      const auto bias = [&](size_t which) { return each > 3 ? own + 3 + which : nullptr; };
      std::vector<double> hidden = product(own[0], x, bias(0));
      const std::vector<double> up = product(own[1], x, bias(1));
      for (size_t j = 0; j < hidden.size(); ++j) hidden[j] *= sigmoid(hidden[j]) * up[j];
      const std::vector<double> out = product(own[2], hidden, bias(2));
      for (size_t j = 0; j < D; ++j) y[n * D + j] += weight * out[j];
    }
  }
  return y;
}

TEST(MoeBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const bool plain : {false, true}) {
      Model model(21, 37, !plain);
      model.routing.normalise = !plain;
      model.routing.scale = plain ? 2.5f : 1.0f;
      const Tensor x = random_tensor({70, 21}, 1), logits = random_tensor({70, kExperts}, 2, 1.5f);
      const Tensor d = random_tensor({70, 21}, 3);
      const Gradients got = run(isa, 3, model, x, logits, d, {70});
      Values values = {to_f64(x), to_f64(logits), {}};
      for (const Masters& m : model.masters) {
        for (const Tensor& master : m.all()) values.parameters.push_back(to_f64(master));
      }
      const auto loss = [&] { return weighted_sum(d, outputs(model, values, got.chosen)); };
      EXPECT_LT(gradient_error(loss, values.x, got.x.f32(), 60), 1e-6) << cpu::isa_name(isa);
      EXPECT_LT(gradient_error(loss, values.logits, got.logits.f32(), 60), 1e-6) << cpu::isa_name(isa);
      for (size_t i = 0; i < values.parameters.size(); ++i) {
        EXPECT_LT(gradient_error(loss, values.parameters[i], got.parameters[i].data(), 10), 1e-6)
            << cpu::isa_name(isa) << " master " << i;
      }
    }
  }
}

// 1200 rows: more than one group of the expert that the bias prefers, and more than one piece of its product.
TEST(MoeBackward, ThreadsNeighboursAndMicroBatchesChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    Model model(16, 24, true);
    model.routing.expert_bias.f32()[3] = 0.8f;
    const Tensor x = random_tensor({1200, 16}, 1), logits = random_tensor({1200, kExperts}, 2);
    const Tensor d = random_tensor({1200, 16}, 3), only = d.clone();
    const Gradients whole = run(isa, 1, model, x, logits, d, {1200});
    const auto expect_same = [](const Gradients& a, const Gradients& b) {
      EXPECT_TRUE(same_bits(a.x, b.x));
      EXPECT_TRUE(same_bits(a.logits, b.logits));
      EXPECT_EQ(a.parameters, b.parameters);
    };
    expect_same(run(isa, 2, model, x, logits, d, {1200}), whole);
    expect_same(run(isa, 3, model, x, logits, d, {1, 600, 1200}), whole);
    for (int64_t i = 0; i < only.count(); ++i) {
      if (i / 16 < 100 || i / 16 >= 170) only.f32()[i] = 0;
    }
    const Gradients packed = run(isa, 3, model, x, logits, only, {1200});
    const Gradients alone = run(isa, 2, model, x.rows(100, 170), logits.rows(100, 170), d.rows(100, 170), {70});
    EXPECT_TRUE(same_bits(packed.x.rows(100, 170), alone.x));
    EXPECT_TRUE(same_bits(packed.logits.rows(100, 170), alone.logits));
    EXPECT_EQ(packed.parameters, alone.parameters);
  }
}

TEST(MoeBackward, NothingIsKeptWhereNobodyTrains) {
  Taped t;
  const Model model(16, 24, false);
  const std::vector<MoeExpert> experts = model.experts(t.stream);
  const Tensor x = random_tensor({9, 16}, 1), logits = random_tensor({9, kExperts}, 2);
  ops::moe_experts(t.ctx, x, ops::moe_route(t.ctx, logits, model.routing), experts);
  EXPECT_EQ(t.tape.nodes(), 0u);
}

TEST(MoeBackward, AWeightWithoutItsTransposeIsRefused) {
  Taped t;
  const Model model(8, 8, false);
  std::vector<MoeExpert> experts = model.experts(t.stream);
  experts[2].up = Weight(8, 8, DType::kF32, Weight::Layout::kPanels);
  const Tensor x = t.input(random_tensor({9, 8}, 1)), logits = random_tensor({9, kExperts}, 2);
  EXPECT_THROW(ops::moe_experts(t.ctx, x, ops::moe_route(t.ctx, logits, model.routing), experts), Error);
}

}  // namespace
}  // namespace carousel
