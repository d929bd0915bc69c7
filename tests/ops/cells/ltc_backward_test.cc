// SPDX-License-Identifier: Apache-2.0
// Gradients of LTC cells against central differences of their formula in f64: every parameter through its constraint,
// masks, memory, elapsed times and rows without any, states; cuts, neighbours, micro-batches and threads.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/cells/ltc.h"
#include "tests/isas.h"
#include "tests/ops/bound_states.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using Vector = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// A cell, its masters by name, and the same values in f64.
struct Cell {
  int64_t inputs, units, outputs;
  bool implicit, memory;
  double step = 0;  // the time of a solver step; 0: that of the row, divided
  std::map<std::string, Tensor> masters;
  std::map<std::string, Vector> values;
  ops::LtcCell packed;

  const Vector& of(const std::string& name) const { return values.at(name); }
  double constrained(double raw) const { return implicit ? std::log1p(std::exp(raw)) : raw; }
};

Tensor uniform(Shape shape, uint64_t seed, double low, double high) {
  Tensor out(shape, DType::kF32);
  Rng rng(seed);
  for (int64_t i = 0; i < out.count(); ++i) out.f32()[i] = static_cast<float>(low + (high - low) * rng.uniform());
  return out;
}

Cell make_cell(int64_t inputs, int64_t units, int64_t outputs, bool implicit, bool memory) {
  Cell cell{inputs, units, outputs, implicit, memory, 0, {}, {}, {}};
  auto& m = cell.masters;
  uint64_t seed = 10;
  for (const auto& [prefix, sources] : {std::pair<std::string, int64_t>{"sensory_", inputs}, {"", units}}) {
    const Shape shape{sources, units};
    m[prefix + "w"] = uniform(shape, ++seed, 0.01, 1);
    m[prefix + "mu"] = uniform(shape, ++seed, 0.3, 0.8);
    m[prefix + "sigma"] = uniform(shape, ++seed, 3, 8);
    m[prefix + "erev"] = uniform(shape, ++seed, -1, 1);
    m[prefix + "mask"] = uniform(shape, ++seed, 0, 1);
    Tensor& mask = m[prefix + "mask"];
    for (int64_t i = 0; i < mask.count(); ++i) mask.f32()[i] = mask.f32()[i] < 0.6f ? 1.0f : 0.0f;
  }
  m["cm"] = uniform({units}, 30, 0.4, 0.6);
  m["gleak"] = uniform({units}, 31, 0.01, 1);
  m["vleak"] = uniform({units}, 32, -0.2, 0.2);
  m["input_w"] = uniform({inputs}, 33, 0.5, 1.5);
  m["input_b"] = uniform({inputs}, 34, -0.5, 0.5);
  m["output_w"] = uniform({outputs}, 35, 0.5, 1.5);
  m["output_b"] = uniform({outputs}, 36, -0.5, 0.5);
  if (memory) {
    m["memory_x"] = random_tensor({4 * units, inputs}, 37, 0.3f);
    m["memory_b"] = random_tensor({4 * units}, 38, 0.3f);
    m["memory_h"] = random_tensor({4 * units, units}, 39, 0.3f);
  }
  for (const auto& [name, master] : m) cell.values[name] = to_f64(master);
  ops::LtcParams params;
  params.gleak = m["gleak"];
  params.vleak = m["vleak"];
  params.cm = m["cm"];
  params.sensory = {m["sensory_w"], m["sensory_mask"], m["sensory_mu"], m["sensory_sigma"], m["sensory_erev"]};
  params.recurrent = {m["w"], m["mask"], m["mu"], m["sigma"], m["erev"]};
  params.implicit = implicit;
  cell.packed = formed(ops::LtcCell(params, {}));
  cell.packed.outputs = outputs;
  cell.packed.input_w = m["input_w"];
  cell.packed.input_b = m["input_b"];
  cell.packed.output_w = m["output_w"];
  cell.packed.output_b = m["output_b"];
  if (memory) cell.packed.memory = formed(ops::memory_map(m["memory_x"], m["memory_b"], m["memory_h"]));
  return cell;
}

void remember(const Cell& cell, const Vector& x, Vector& v, Vector& c) {
  const auto units = static_cast<size_t>(cell.units);
  Vector gates;
  for (size_t r = 0; r < 4 * units; ++r) {
    double sum = cell.of("memory_b")[r];
    for (size_t k = 0; k < x.size(); ++k) sum += cell.of("memory_x")[r * x.size() + k] * x[k];
    for (size_t k = 0; k < units; ++k) sum += cell.of("memory_h")[r * units + k] * v[k];
    gates.push_back(sum);
  }
  for (size_t j = 0; j < units; ++j) {
    c[j] = c[j] * sigmoid(gates[2 * units + j] + 1) + std::tanh(gates[j]) * sigmoid(gates[units + j]);
    v[j] = std::tanh(c[j]) * sigmoid(gates[3 * units + j]);
  }
}

/// Adds the currents and conductances of synapses from `from` onto neuron j.
void add_synapses(const Cell& cell, const std::string& prefix, const Vector& from, size_t j, double* sums) {
  const auto units = static_cast<size_t>(cell.units);
  const Vector &w = cell.of(prefix + "w"), &mu = cell.of(prefix + "mu"), &sigma = cell.of(prefix + "sigma");
  for (size_t i = 0; i < from.size(); ++i) {
    const size_t at = i * units + j;
    if (cell.of(prefix + "mask")[at] == 0) continue;
    const double a = cell.constrained(w[at]) * sigmoid(sigma[at] * (from[i] - mu[at]));
    sums[0] += a * cell.of(prefix + "erev")[at];
    sums[1] += a;
  }
}

/// One row: v and c are replaced; returns what is read out.
Vector step(const Cell& cell, const Vector& x, double dt, Vector& v, Vector& c) {
  const auto units = static_cast<size_t>(cell.units);
  if (cell.memory) remember(cell, x, v, c);
  Vector input = x, out;
  for (size_t i = 0; i < x.size(); ++i) input[i] = x[i] * cell.of("input_w")[i] + cell.of("input_b")[i];
  std::vector<double> sensory(2 * units);
  for (size_t j = 0; j < units; ++j) add_synapses(cell, "sensory_", input, j, &sensory[2 * j]);
  const double step_time = cell.step > 0 ? cell.step : dt / static_cast<double>(cell.packed.unfolds);
  for (int64_t k = 0; step_time > 0 && k < cell.packed.unfolds; ++k) {
    Vector next;
    for (size_t j = 0; j < units; ++j) {
      double sums[2] = {sensory[2 * j], sensory[2 * j + 1]};
      add_synapses(cell, "", v, j, sums);
      const double per_step = cell.constrained(cell.of("cm")[j]) / step_time;
      const double leak = cell.constrained(cell.of("gleak")[j]);
      next.push_back((per_step * v[j] + leak * cell.of("vleak")[j] + sums[0]) /
                     (per_step + leak + sums[1] + double{cell.packed.epsilon}));
    }
    v = next;
  }
  for (size_t m = 0; m < static_cast<size_t>(cell.outputs); ++m) {
    out.push_back(v[m] * cell.of("output_w")[m] + cell.of("output_b")[m]);
  }
  return out;
}

double loss(const Cell& cell, const Seqs& seqs, const Vector& x, const std::vector<Vector>& before,
            const Tensor& weights, const std::vector<Vector>& d_left) {
  const auto units = static_cast<size_t>(cell.units), outputs = static_cast<size_t>(cell.outputs);
  double sum = 0;
  for (size_t s = 0; s < seqs.pos.size(); ++s) {
    const auto own = [&](const Vector& all) {
      return Vector(all.begin() + static_cast<int64_t>(s * units), all.begin() + static_cast<int64_t>((s + 1) * units));
    };
    Vector v = own(before[0]), c = cell.memory ? own(before[1]) : Vector(units);
    for (int64_t n = seqs.offsets[s]; n < seqs.offsets[s + 1]; ++n) {
      const Vector row(x.begin() + n * cell.inputs, x.begin() + (n + 1) * cell.inputs);
      const Vector out = step(cell, row, seqs.dt.f32()[n], v, c);
      for (size_t m = 0; m < outputs; ++m) sum += double{weights.f32()[static_cast<size_t>(n) * outputs + m]} * out[m];
    }
    for (size_t j = 0; j < units; ++j) {
      sum += d_left[0][s * units + j] * v[j];
      if (cell.memory) sum += d_left[1][s * units + j] * c[j];
    }
  }
  return sum;
}

using Parameters = std::map<std::string, std::shared_ptr<std::vector<float>>>;

Parameters train(Taped& t, const Cell& cell) {
  Parameters gradients;
  for (const auto& [name, master] : cell.masters) {
    if (name.find("mask") == std::string::npos) gradients[name] = t.parameter(master);
  }
  return gradients;
}

std::vector<Shape> state_shapes(const Cell& cell) { return std::vector<Shape>(cell.memory ? 2 : 1, Shape{cell.units}); }

void expect_gradients(Isa isa, Cell cell, const Numerics& numerics = Numerics::native()) {
  SCOPED_TRACE(::testing::Message() << cpu::isa_name(isa) << " " << cell.units << " implicit " << cell.implicit
                                    << " memory " << cell.memory);
  Taped t(isa);
  const Parameters gradients = train(t, cell);
  const std::vector<int64_t> lengths = {1, 0, 9, 66};
  Seqs seqs = sequences(lengths);
  seqs.dt = uniform({seqs.rows()}, 2, 0.05, 2);
  seqs.dt.f32()[3] = 0;  // a row without time
  const Tensor values = random_tensor({seqs.rows(), cell.inputs}, 1);
  const Tensor weights = random_tensor({seqs.rows(), cell.outputs}, 3);
  BoundStates states(state_shapes(cell), lengths, 100, 0.5f), d_states(state_shapes(cell), lengths, 500);
  Vector x_values = to_f64(values);
  std::vector<Vector> before, d_left;
  for (size_t i = 0; i < state_shapes(cell).size(); ++i) {
    before.push_back(states.all(i));
    d_left.push_back(d_states.all(i));
  }
  const Tensor x = t.input(values);
  Ctx taped{t.stream, t.arena, numerics};
  taped.tape = &t.tape;
  const Tensor y = ops::ltc(taped, x, cell.packed, seqs, states.layer());
  t.backward({{y, weights}}, &d_states.batch, numerics);
  const auto of = [&] { return loss(cell, seqs, x_values, before, weights, d_left); };
  // Six solver steps per row, each a quotient of sums in f32 whose gradients are differences: 2e-6.
  EXPECT_LT(gradient_error(of, x_values, t.gradient(x).f32(), 24), 2e-6);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_LT(gradient_error(of, before[i], d_states.all_f32(i).data(), 8), 2e-6) << i;
  }
  for (const auto& [name, gradient] : gradients) {
    EXPECT_LT(gradient_error(of, cell.values[name], gradient->data(), 8), 2e-6) << name;
    const size_t stem = name.find("sensory_") == 0 ? 8 : 0;
    const std::string mask = name.substr(0, stem) + "mask";
    const bool synapse = cell.masters.at(mask).count() == static_cast<int64_t>(gradient->size()) &&
                         cell.masters.at(name).shape().rank() == 2 && name.find("memory") == std::string::npos;
    for (size_t i = 0; synapse && i < gradient->size(); ++i) {
      if (cell.of(mask)[i] == 0) {
        ASSERT_EQ((*gradient)[i], 0.0f) << name;
      }
    }
  }
}

TEST(LtcBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    expect_gradients(isa, make_cell(3, 19, 5, true, true));
    if (isa != cpu::best_isa()) continue;  // central differences are slow
    expect_gradients(isa, make_cell(2, 1, 1, true, false));
    expect_gradients(isa, make_cell(20, 17, 17, false, false));
  }
}

// As the TensorFlow code solves them (ncps-tf): values as they are, steps of their own time, no epsilon.
TEST(LtcBackward, UnderAProfileAgreesWithCentralDifferences) {
  Numerics numerics;
  numerics.ltc.implicit = false;
  numerics.ltc.step = 0.3;
  numerics.ltc.epsilon = 0;
  numerics.ltc.unfolds = 4;
  numerics.ltc.w = {1e-5, 1000};
  Cell cell = make_cell(3, 19, 5, true, true);
  Machine machine;
  cell.packed = cell.packed.under(machine.stream, numerics.ltc);
  cell.packed.epsilon = 0;  // these two are what the formula here reads
  cell.packed.unfolds = 4;
  cell.implicit = false;
  cell.step = 0.3;
  expect_gradients(cpu::best_isa(), cell, numerics);
}

TEST(LtcBackward, ASolverWithoutAGradientIsRefused) {
  Numerics numerics;
  numerics.ltc.solver = Numerics::Solver::kEuler;
  const Cell cell = make_cell(2, 3, 1, true, false);
  Taped t;
  Ctx taped{t.stream, t.arena, numerics};
  taped.tape = &t.tape;
  EXPECT_THROW(ops::ltc(taped, t.input(random_tensor({2, 2}, 1)), cell.packed, sequences({2}), {}), Error);
}

struct Gradients {
  Tensor y, d_x;
  std::map<std::string, std::vector<float>> parameters;
};

Gradients run(Taped& t, const Cell& cell, const Tensor& values, const Seqs& seqs, const Tensor& weights,
              const std::map<std::string, std::vector<float>>& held = {}) {
  const Parameters parameters = train(t, cell);
  for (const auto& [name, gradient] : held) *parameters.at(name) = gradient;
  const Tensor x = t.input(values);
  const Tensor y = ops::ltc(t.ctx, x, cell.packed, seqs, {});
  Gradients out;
  out.y = y.clone();
  t.backward({{y, weights}});
  out.d_x = t.gradient(x).clone();
  for (const auto& [name, gradient] : parameters) out.parameters[name] = *gradient;
  return out;
}

TEST(LtcBackward, ThreadsNeighboursAndMicroBatchesChangeNoBit) {
  const Cell cell = make_cell(6, 70, 7, true, true);
  const Tensor x = random_tensor({78, 6}, 1), weights = random_tensor({78, 7}, 3);
  const Seqs seqs = sequences({5, 70, 3});
  for (const Isa isa : tested_isas()) {
    Machine plain(isa);
    Taped one(isa, 1), two(isa, 2), three(isa, 3), alone(isa, 3), among(isa, 2), first(isa), second(isa);
    const Gradients all = run(one, cell, x, seqs, weights);
    EXPECT_TRUE(same_bits(all.y, ops::ltc(plain.ctx, x, cell.packed, seqs, {})));
    for (Taped* many : {&two, &three}) {
      const Gradients g = run(*many, cell, x, seqs, weights);
      EXPECT_TRUE(same_bits(g.d_x, all.d_x));
      EXPECT_EQ(g.parameters, all.parameters);
    }
    Tensor only = weights.clone();
    for (int64_t i = 0; i < only.count(); ++i) {
      if (i < 5 * 7 || i >= 75 * 7) only.f32()[i] = 0;
    }
    const Gradients packed = run(among, cell, x, seqs, only);
    const Gradients single = run(alone, cell, x.rows(5, 75), sequences({70}), weights.rows(5, 75));
    EXPECT_TRUE(same_bits(packed.d_x.rows(5, 75).clone(), single.d_x));
    EXPECT_EQ(packed.parameters, single.parameters);
    const Gradients begun = run(first, cell, x.rows(0, 5), sequences({5}), weights.rows(0, 5));
    const Gradients ended = run(second, cell, x.rows(5, 78), sequences({70, 3}), weights.rows(5, 78), begun.parameters);
    EXPECT_EQ(ended.parameters, all.parameters);
  }
}

TEST(LtcBackward, ACutSequenceWithItsStateGradientIsAsTheWhole) {
  const Cell cell = make_cell(6, 20, 7, true, true);
  const Tensor x = random_tensor({40, 6}, 1), weights = random_tensor({40, 7}, 3);
  Taped whole, first, second;
  const Gradients all = run(whole, cell, x, sequences({40}), weights);
  BoundStates states(state_shapes(cell), {40}, 1, 0.0f), d_states(state_shapes(cell), {40}, 1, 0.0f);
  const Parameters front = train(first, cell), back = train(second, cell);
  const Tensor a = first.input(x.rows(0, 13)), b = second.input(x.rows(13, 40));
  const Tensor y_a = ops::ltc(first.ctx, a, cell.packed, sequences({13}), states.layer());
  const Tensor y_b = ops::ltc(second.ctx, b, cell.packed, sequences({27}), states.layer());
  second.backward({{y_b, weights.rows(13, 40)}}, &d_states.batch);
  first.backward({{y_a, weights.rows(0, 13)}}, &d_states.batch);
  EXPECT_LT(relative_error(joined({first.gradient(a), second.gradient(b)}).f32(), to_f64(all.d_x)), 2e-6);
  for (const auto& [name, gradient] : front) {
    Vector sum;
    for (size_t i = 0; i < gradient->size(); ++i) sum.push_back(double{(*gradient)[i]} + double{(*back.at(name))[i]});
    EXPECT_LT(relative_error(all.parameters.at(name).data(), sum), 1e-5) << name;
  }
}

TEST(LtcBackward, AnotherSolverIsRefusedUnderATape) {
  const Cell cell = make_cell(2, 5, 1, true, false);
  Taped t;
  train(t, cell);
  Numerics euler;
  euler.ltc.solver = Numerics::Solver::kEuler;
  Ctx ctx{t.stream, t.arena, euler, nullptr, &t.tape};
  EXPECT_THROW(ops::ltc(ctx, random_tensor({2, 2}, 1), cell.packed, sequences({2}), {}), Error);
}

}  // namespace
}  // namespace carousel
