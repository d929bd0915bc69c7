// SPDX-License-Identifier: Apache-2.0
// Gradients of CfC cells against central differences of their formulas in f64: every mode and activation, layers with
// masks, memory, elapsed times, states; cuts, neighbours, micro-batches and threads.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "tests/isas.h"
#include "tests/ops/bound_states.h"
#include "tests/ops/cells/cfc_reference.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using cfc_reference::make_reference;
using cfc_reference::Map;
using cfc_reference::Reference;
using cfc_reference::Shape2;
using ops::CfcActivation;
using ops::CfcMode;

using Vector = std::vector<double>;

constexpr int64_t kInputs = 5;

/// A parameter as the op and as the reference hold it.
struct Parameter {
  Tensor master;
  Vector* values;
  std::shared_ptr<std::vector<float>> gradient;
  const Map* map = nullptr;  // of a weight
};

std::vector<Parameter> parameters_of(Taped& t, Reference& reference) {
  std::vector<Parameter> all;
  const auto add = [&](const Tensor& master, Vector& values, const Map* map) {
    all.push_back({master, &values, t.parameter(master), map});
  };
  const auto add_map = [&](Map& map) {
    add(map.weight, map.weights, &map);
    add(map.bias, map.biases, nullptr);
  };
  for (cfc_reference::Layer& layer : reference.layers) {
    for (Map& map : layer.backbone) add_map(map);
    add_map(layer.heads);
    if (!layer.w_tau.defined()) continue;
    add(layer.w_tau, layer.w_taus, nullptr);
    add(layer.a, layer.as, nullptr);
  }
  for (Map& map : reference.memory) add_map(map);
  return all;
}

Seqs timed(const std::vector<int64_t>& lengths) {
  Seqs seqs = sequences(lengths);
  seqs.dt = random_tensor({seqs.rows()}, 2);
  for (int64_t n = 0; n < seqs.rows(); ++n) seqs.dt.f32()[n] = std::abs(seqs.dt.f32()[n]);
  return seqs;
}

std::vector<Shape> state_shapes(const ops::CfcCell& cell) {
  return std::vector<Shape>(cell.memory.defined() ? 2 : 1, Shape{cell.units()});
}

/// sum of weights * y plus the last states times their gradients.
double loss(const Reference& reference, const Seqs& seqs, const Vector& x, const std::vector<Vector>& before,
            const Tensor& weights, const std::vector<Vector>& d_left) {
  const auto units = static_cast<size_t>(reference.cell.units());
  const auto outputs = static_cast<size_t>(reference.cell.layers.back().units);
  double sum = 0;
  for (size_t s = 0; s < seqs.pos.size(); ++s) {
    const auto own = [&](const Vector& all) {
      return Vector(all.begin() + static_cast<int64_t>(s * units), all.begin() + static_cast<int64_t>((s + 1) * units));
    };
    Vector h = own(before[0]), c = before.size() > 1 ? own(before[1]) : Vector(units);
    for (int64_t n = seqs.offsets[s]; n < seqs.offsets[s + 1]; ++n) {
      const Vector row(x.begin() + n * kInputs, x.begin() + (n + 1) * kInputs);
      reference.step(row, seqs.dt.f32()[n], h, c);
      for (size_t j = 0; j < outputs; ++j) {
        sum += double{weights.f32()[static_cast<size_t>(n) * outputs + j]} * h[units - outputs + j];
      }
    }
    for (size_t j = 0; j < units; ++j) {
      sum += d_left[0][s * units + j] * h[j];
      if (d_left.size() > 1) sum += d_left[1][s * units + j] * c[j];
    }
  }
  return sum;
}

void expect_gradients(Isa isa, const Shape2& shape) {
  SCOPED_TRACE(::testing::Message() << cpu::isa_name(isa) << " mode " << static_cast<int>(shape.mode) << " activation "
                                    << static_cast<int>(shape.activation) << " layers " << shape.units.size()
                                    << " depth " << shape.depth << " memory " << shape.memory);
  Taped t(isa);
  Reference reference = make_reference(kInputs, shape);
  std::vector<Parameter> parameters = parameters_of(t, reference);
  const std::vector<int64_t> lengths = {1, 0, 66, 7};
  const Seqs seqs = timed(lengths);
  const Tensor values = random_tensor({seqs.rows(), kInputs}, 1);
  const Tensor weights = random_tensor({seqs.rows(), shape.units.back()}, 3);
  BoundStates states(state_shapes(reference.cell), lengths, 100, 0.5f);
  BoundStates d_states(state_shapes(reference.cell), lengths, 500);
  Vector x_values = to_f64(values);
  std::vector<Vector> before, d_left;
  for (size_t i = 0; i < state_shapes(reference.cell).size(); ++i) {
    before.push_back(states.all(i));
    d_left.push_back(d_states.all(i));
  }
  const Tensor x = t.input(values);
  const Tensor y = ops::cfc(t.ctx, x, reference.cell, seqs, states.layer());
  t.backward({{y, weights}}, &d_states.batch);
  const auto of = [&] { return loss(reference, seqs, x_values, before, weights, d_left); };
  // Rounding of sums of dozens of terms in f32; corners of a ReLU are far from every sampled step.
  EXPECT_LT(gradient_error(of, x_values, t.gradient(x).f32(), 30), 1e-6);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_LT(gradient_error(of, before[i], d_states.all_f32(i).data(), 20), 1e-6) << i;
  }
  for (size_t p = 0; p < parameters.size(); ++p) {
    EXPECT_LT(gradient_error(of, *parameters[p].values, parameters[p].gradient->data(), 12), 1e-6) << p;
    for (int64_t i = 0; parameters[p].map != nullptr && i < parameters[p].master.count(); ++i) {
      if (parameters[p].map->masked(i)) {
        ASSERT_EQ((*parameters[p].gradient)[static_cast<size_t>(i)], 0.0f);
      }
    }
  }
}

TEST(CfcBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const CfcMode mode : {CfcMode::kDefault, CfcMode::kNoGate, CfcMode::kPure}) {
      expect_gradients(isa, {.mode = mode, .units = {11, 6, 3}, .depth = 0, .memory = true});
      if (isa != cpu::best_isa()) continue;  // central differences are slow
      for (const int64_t depth : {0, 1, 3}) expect_gradients(isa, {.mode = mode, .depth = depth});
    }
    for (const CfcActivation activation : {CfcActivation::kTanh, CfcActivation::kRelu, CfcActivation::kSilu,
                                           CfcActivation::kGelu, CfcActivation::kGeluTanh}) {
      expect_gradients(isa, {.activation = activation, .units = {17}, .depth = 2, .memory = true});
    }
  }
}

struct Gradients {
  Tensor y, d_x;
  std::vector<std::vector<float>> parameters;
};

Gradients run(Taped& t, Reference& reference, const Tensor& values, const Seqs& seqs, const Tensor& weights,
              const std::vector<std::vector<float>>& held = {}) {
  std::vector<Parameter> parameters = parameters_of(t, reference);
  for (size_t p = 0; p < held.size(); ++p) *parameters[p].gradient = held[p];
  const Tensor x = t.input(values);
  const Tensor y = ops::cfc(t.ctx, x, reference.cell, seqs, {});
  Gradients out;
  out.y = y.clone();
  t.backward({{y, weights}});
  out.d_x = t.gradient(x).clone();
  for (const Parameter& parameter : parameters) out.parameters.push_back(*parameter.gradient);
  return out;
}

TEST(CfcBackward, ThreadsNeighboursAndMicroBatchesChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    for (const Shape2& shape : {Shape2{.units = {80}, .depth = 1, .memory = true},
                                Shape2{.mode = CfcMode::kPure, .units = {11, 6, 3}, .depth = 0}}) {
      Reference reference = make_reference(kInputs, shape);
      const int64_t outputs = shape.units.back();
      const Tensor x = random_tensor({78, kInputs}, 1), weights = random_tensor({78, outputs}, 3);
      const Seqs seqs = sequences({5, 70, 3});
      Machine plain(isa);
      Taped one(isa, 1), two(isa, 2), three(isa, 3), alone(isa, 3), among(isa, 2), first(isa), second(isa);
      const Gradients all = run(one, reference, x, seqs, weights);
      EXPECT_TRUE(same_bits(all.y, ops::cfc(plain.ctx, x, reference.cell, seqs, {})));
      for (Taped* many : {&two, &three}) {
        const Gradients g = run(*many, reference, x, seqs, weights);
        EXPECT_TRUE(same_bits(g.d_x, all.d_x));
        EXPECT_EQ(g.parameters, all.parameters);
      }
      Tensor only = weights.clone();
      for (int64_t i = 0; i < only.count(); ++i) {
        if (i < 5 * outputs || i >= 75 * outputs) only.f32()[i] = 0;
      }
      const Gradients packed = run(among, reference, x, seqs, only);
      const Gradients single = run(alone, reference, x.rows(5, 75), sequences({70}), weights.rows(5, 75));
      EXPECT_TRUE(same_bits(packed.d_x.rows(5, 75).clone(), single.d_x));
      EXPECT_EQ(packed.parameters, single.parameters);
      const Gradients begun = run(first, reference, x.rows(0, 5), sequences({5}), weights.rows(0, 5));
      const Gradients ended =
          run(second, reference, x.rows(5, 78), sequences({70, 3}), weights.rows(5, 78), begun.parameters);
      EXPECT_EQ(ended.parameters, all.parameters);
    }
  }
}

TEST(CfcBackward, ACutSequenceWithItsStateGradientIsAsTheWhole) {
  Reference reference = make_reference(kInputs, {.units = {20}, .depth = 1, .memory = true});
  const Tensor x = random_tensor({40, kInputs}, 1), weights = random_tensor({40, 20}, 3);
  Taped whole, first, second;
  const Gradients all = run(whole, reference, x, sequences({40}), weights);
  const std::vector<Shape> shapes = state_shapes(reference.cell);
  BoundStates states(shapes, {40}, 1, 0.0f), d_states(shapes, {40}, 1, 0.0f);
  const std::vector<Parameter> front = parameters_of(first, reference), back = parameters_of(second, reference);
  const Tensor a = first.input(x.rows(0, 13)), b = second.input(x.rows(13, 40));
  const Tensor y_a = ops::cfc(first.ctx, a, reference.cell, sequences({13}), states.layer());
  const Tensor y_b = ops::cfc(second.ctx, b, reference.cell, sequences({27}), states.layer());
  second.backward({{y_b, weights.rows(13, 40)}}, &d_states.batch);
  first.backward({{y_a, weights.rows(0, 13)}}, &d_states.batch);
  EXPECT_LT(relative_error(joined({first.gradient(a), second.gradient(b)}).f32(), to_f64(all.d_x)), 1e-6);
  for (size_t p = 0; p < front.size(); ++p) {
    Vector sum;
    for (size_t i = 0; i < front[p].gradient->size(); ++i) {
      sum.push_back(double{(*front[p].gradient)[i]} + double{(*back[p].gradient)[i]});
    }
    EXPECT_LT(relative_error(all.parameters[p].data(), sum), 1e-5) << p;
  }
}

}  // namespace
}  // namespace carousel
