// SPDX-License-Identifier: Apache-2.0
// LTC cells under a numeric profile against f64: constraints and bounds of the parameters, solvers, steps and epsilon.
// And GELU by its tanh form in CfC.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "carousel/ops/cells/cfc.h"
#include "carousel/ops/cells/ltc.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

constexpr size_t kUnits = 3, kInputs = 2;
using Vector = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

ops::LtcSynapseParams synapses(int64_t sources, uint64_t seed) {
  ops::LtcSynapseParams out;
  const Shape shape{sources, kUnits};
  out.w = random_tensor(shape, seed, 0.5f);  // some are negative: bounds and softplus matter
  out.mu = random_tensor(shape, seed + 1, 0.2f, 0.5f);
  out.sigma = random_tensor(shape, seed + 2, 1.0f, 4.0f);
  out.erev = random_tensor(shape, seed + 3);
  out.mask = random_tensor(shape, 0, 0.0f, 1.0f);
  out.mask.f32()[1] = 0;
  return out;
}

struct Model {
  Model() {
    params.gleak = random_tensor({kUnits}, 1, 0.2f, 0.5f);
    params.vleak = random_tensor({kUnits}, 2, 0.2f);
    params.cm = random_tensor({kUnits}, 3, 0.05f, 0.5f);
    params.sensory = synapses(kInputs, 10);
    params.recurrent = synapses(kUnits, 20);
    params.implicit = true;
    const auto moved = [&](const ops::LtcSynapseParams& s) {
      return ops::LtcSynapseParams{there(s.w), there(s.mask), there(s.mu), there(s.sigma), there(s.erev)};
    };
    ops::LtcParams on_target = {there(params.gleak), there(params.vleak), there(params.cm), moved(params.sensory),
                                moved(params.recurrent)};
    on_target.implicit = true;
    cell = formed(ops::LtcCell(on_target, {}));
  }
  Tensor there(const Tensor& x) const { return x.defined() ? x.to(*target.memory) : x; }

  /// Potentials after the rows of x.
  Tensor run(const Numerics& numerics, const Tensor& x, const Tensor& dt = {}) {
    Machine machine(target);
    Ctx ctx{machine.stream, machine.arena, numerics};
    Seqs seqs = machine.on(sequences({x.dim(0)}));
    seqs.dt = there(dt);
    return ops::ltc(ctx, there(x), cell.under(machine.stream, numerics.ltc), seqs, {}).clone().to_host();
  }

  Target target = targets().back();  // one is enough
  ops::LtcParams params;             // on the host
  ops::LtcCell cell;
};

/// The same in f64.
struct Reference {
  const Model& model;
  Numerics::Ltc rule;

  double constrained(float raw, const Numerics::Range& range) const {
    const bool implicit = rule.implicit.value_or(true);
    return std::clamp(implicit ? std::log1p(std::exp(double{raw})) : double{raw}, range.low, range.high);
  }
  void add(const ops::LtcSynapseParams& s, size_t j, const Vector& from, double& current, double& open) const {
    for (size_t i = 0; i < from.size(); ++i) {
      const size_t at = i * kUnits + j;
      if (s.mask.f32()[at] == 0) continue;
      const double a =
          constrained(s.w.f32()[at], rule.w) * sigmoid(double{s.sigma.f32()[at]} * (from[i] - double{s.mu.f32()[at]}));
      current += a * double{s.erev.f32()[at]};
      open += a;
    }
  }
  double capacity(size_t j) const { return constrained(model.params.cm.f32()[j], rule.cm); }
  /// Currents and conductances into neuron j at v, the leak's among them.
  std::pair<double, double> sums(size_t j, const Vector& x, const Vector& v) const {
    const double leak = constrained(model.params.gleak.f32()[j], rule.gleak);
    double current = leak * double{model.params.vleak.f32()[j]}, open = leak;
    add(model.params.sensory, j, x, current, open);
    add(model.params.recurrent, j, v, current, open);
    return {current, open};
  }
  Vector rates(const Vector& x, const Vector& v) const {
    Vector out;
    for (size_t j = 0; j < kUnits; ++j) {
      const auto [current, open] = sums(j, x, v);
      out.push_back((current - open * v[j]) / capacity(j));
    }
    return out;
  }
  static Vector plus(const Vector& v, double scale, const Vector& w) {
    Vector out = v;
    for (size_t j = 0; j < v.size(); ++j) out[j] += scale * w[j];
    return out;
  }
  void row(const Vector& x, double dt, Vector& v) const {
    const int64_t unfolds = rule.unfolds.value_or(6);
    const double step = rule.step.value_or(dt / static_cast<double>(unfolds));
    for (int64_t k = 0; k < unfolds; ++k) {
      if (rule.solver == Numerics::Solver::kEuler) {
        v = plus(v, step, rates(x, v));
      } else if (rule.solver == Numerics::Solver::kRungeKutta) {
        const Vector k1 = rates(x, v), k2 = rates(x, plus(v, step / 2, k1)), k3 = rates(x, plus(v, step / 2, k2));
        const Vector k4 = rates(x, plus(v, step, k3));
        v = plus(plus(plus(plus(v, step / 6, k1), step / 3, k2), step / 3, k3), step / 6, k4);
      } else {
        Vector next;
        for (size_t j = 0; j < kUnits; ++j) {
          const auto [current, open] = sums(j, x, v);
          const double c = capacity(j) / step;
          next.push_back((c * v[j] + current) / (c + open + rule.epsilon.value_or(1e-8)));
        }
        v = next;
      }
    }
  }
};

void expect_as_predicted(const char* name, void (*change)(Numerics::Ltc&)) {
  Model model;
  Numerics numerics;
  change(numerics.ltc);
  const Tensor x = random_tensor({5, kInputs}, 30), dt = random_tensor({5}, 31, 0.1f, 0.6f);
  const Tensor got = model.run(numerics, x, dt);
  const Tensor native = model.run(Numerics::native(), x, dt);
  const auto predicted = [&](const Numerics::Ltc& rule) {
    Vector v(kUnits, 0.0), out;
    for (int64_t n = 0; n < 5; ++n) {
      Reference{model, rule}.row({double{x.f32()[n * 2]}, double{x.f32()[n * 2 + 1]}}, double{dt.f32()[n]}, v);
      out.insert(out.end(), v.begin(), v.end());
    }
    return out;
  };
  EXPECT_LE(relative_error(native.f32(), predicted({})), 2e-6) << name;
  EXPECT_LE(relative_error(got.f32(), predicted(numerics.ltc)), 2e-6) << name;
  EXPECT_GT(relative_error(native.f32(), predicted(numerics.ltc)), 1e-4) << name << " changed nothing";
}

TEST(LtcNumerics, EveryKeyChangesTheResultAsPredicted) {
  using Ltc = Numerics::Ltc;
  using Solver = Numerics::Solver;
  expect_as_predicted("unfolds", [](Ltc& ltc) { ltc.unfolds = 2; });
  expect_as_predicted("step", [](Ltc& ltc) { ltc.step = 1.0; });
  expect_as_predicted("epsilon", [](Ltc& ltc) { ltc.epsilon = 0.5; });
  expect_as_predicted("constraints", [](Ltc& ltc) { ltc.implicit = false; });
  expect_as_predicted("w", [](Ltc& ltc) { ltc.w = {0.6, 0.9}; });
  expect_as_predicted("cm", [](Ltc& ltc) { ltc.cm.low = 2; });
  expect_as_predicted("gleak", [](Ltc& ltc) { ltc.gleak.high = 0.1; });
  expect_as_predicted("solver", [](Ltc& ltc) { ltc.solver = Solver::kEuler; });
  expect_as_predicted("solver", [](Ltc& ltc) { ltc.solver = Solver::kRungeKutta; });
  expect_as_predicted("solver and step", [](Ltc& ltc) {
    ltc.solver = Solver::kRungeKutta;
    ltc.step = 0.1;
  });
  expect_as_predicted("the TensorFlow code", [](Ltc& ltc) {
    ltc.implicit = false;
    ltc.step = 1.0;
    ltc.epsilon = 0.0;
    ltc.w = ltc.gleak = {1e-5, 1e3};
    ltc.cm = {1e-6, 1e3};
  });
}

// Of small steps all solvers make the same path.
TEST(LtcNumerics, SolversMeetWhereStepsAreSmall) {
  Model model;
  const Tensor x = random_tensor({1, kInputs}, 32);
  Numerics numerics;
  numerics.ltc.unfolds = 1000;
  const Tensor implicit = model.run(numerics, x);
  for (const Numerics::Solver solver : {Numerics::Solver::kEuler, Numerics::Solver::kRungeKutta}) {
    numerics.ltc.solver = solver;
    const Tensor other = model.run(numerics, x);
    EXPECT_LE(relative_error(other.f32(), {implicit.f32(), implicit.f32() + kUnits}), 1e-2);
  }
}

// A step of its own length is taken whatever time went by; one of the elapsed time is not taken in none.
TEST(LtcNumerics, AFixedStepNeedsNoTime) {
  Model model;
  const Tensor x = random_tensor({1, kInputs}, 33), none(Shape{1}, DType::kF32);
  const Tensor still = model.run(Numerics::native(), x, none);
  for (size_t j = 0; j < kUnits; ++j) EXPECT_EQ(still.f32()[j], 0.0f);
  Numerics numerics;
  numerics.ltc.step = 1.0;
  EXPECT_TRUE(same_bits(model.run(numerics, x, none), model.run(numerics, x)));
}

TEST(CfcNumerics, TheBackbonesGeluMayBeTheTanhForm) {
  ops::CfcCell cell;
  cell.inputs = 1;
  cell.mode = ops::CfcMode::kNoGate;
  cell.activation = ops::CfcActivation::kGelu;
  ops::CfcLayer layer;
  layer.units = 1;
  const auto map = [](int64_t inputs, std::vector<float> first) {
    ops::CellMap out(inputs, 1, static_cast<int64_t>(first.size()));
    for (size_t p = 0; p < first.size(); ++p) {
      Tensor row(Shape{1, inputs}, DType::kF32);
      row.f32()[0] = first[p];
      out.add(static_cast<int64_t>(p), 0, row);
      out.add_bias(static_cast<int64_t>(p), Tensor(Shape{1}, DType::kF32));
    }
    return formed(out);
  };
  layer.backbone = {map(2, {1})};      // of x alone, not of h
  layer.heads = map(1, {1, 0, 0, 0});  // tanh of it
  cell.layers.push_back(layer);
  Tensor x(Shape{1, 1}, DType::kF32);
  x.f32()[0] = 1.5f;
  Numerics numerics;
  Machine machine;
  Ctx ctx{machine.stream, machine.arena, numerics};
  const double erf = 0.5 * 1.5 * (1 + std::erf(1.5 / std::sqrt(2)));
  EXPECT_NEAR(ops::cfc(ctx, x, cell, sequences({1}), {}).f32()[0], std::tanh(erf), 1e-6);
  numerics.gelu_tanh = true;
  const double form = 0.5 * 1.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (1.5 + 0.044715 * 1.5 * 1.5 * 1.5)));
  EXPECT_NEAR(ops::cfc(ctx, x, cell, sequences({1}), {}).f32()[0], std::tanh(form), 1e-6);
  EXPECT_GT(std::abs(std::tanh(erf) - std::tanh(form)), 1e-5);
}

}  // namespace
}  // namespace carousel
