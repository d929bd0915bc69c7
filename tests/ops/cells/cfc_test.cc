// SPDX-License-Identifier: Apache-2.0
// ops::cfc against its formulas in f64, for every mode and activation, layers, memory and elapsed times.
#include "carousel/ops/cells/cfc.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

using ops::CellMap;
using ops::CfcActivation;
using ops::CfcMode;

using Vector = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activate(CfcActivation kind, double x) {
  switch (kind) {
    case CfcActivation::kLecunTanh:
      return 1.7159 * std::tanh(0.666 * x);
    case CfcActivation::kTanh:
      return std::tanh(x);
    case CfcActivation::kRelu:
      return std::max(x, 0.0);
    case CfcActivation::kSilu:
      return x * sigmoid(x);
    case CfcActivation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case CfcActivation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

/// Plain weights [rows, cols] beside the packed form the op takes.
struct Map {
  Map(int64_t inputs, int64_t units, int64_t parts, uint64_t seed)
      : units_count(units), packed(inputs, units, parts), bias(random_tensor({parts * units}, seed, 0.3f)) {
    const float scale = 1 / std::sqrt(static_cast<float>(inputs));
    weight = random_tensor({parts * units, inputs}, seed + 1, scale);
    for (int64_t p = 0; p < parts; ++p) {
      packed.add(p, 0, weight, p * units);
      packed.add_bias(p, bias, p * units);
    }
    packed.pack(Stream());
  }
  Vector operator()(const Vector& z) const {
    Vector out;
    for (int64_t r = 0; r < weight.dim(0); ++r) {
      double sum = bias.f32()[r];
      for (size_t k = 0; k < z.size(); ++k)
        sum += double{weight.f32()[r * weight.dim(1) + static_cast<int64_t>(k)]} * z[k];
      out.push_back(sum);
    }
    return out;
  }
  int64_t units_count;
  CellMap packed;
  Tensor weight, bias;
};

struct Layer {
  std::vector<Map> backbone;
  Map heads;
  Tensor w_tau, a;
};

struct Reference {
  ops::CfcCell cell;
  std::vector<Layer> layers;
  std::vector<Map> memory;  // one, or none

  void step(const Vector& x, double dt, Vector& h, Vector& c) const {
    const auto units = static_cast<size_t>(cell.units());
    if (!memory.empty()) {
      Vector z = x;
      z.insert(z.end(), h.begin(), h.end());
      const Vector g = memory[0](z);
      for (size_t j = 0; j < units; ++j) {
        c[j] = c[j] * sigmoid(g[2 * units + j] + 1) + std::tanh(g[j]) * sigmoid(g[units + j]);
        h[j] = std::tanh(c[j]) * sigmoid(g[3 * units + j]);
      }
    }
    Vector input = x;
    size_t first = 0;
    for (const Layer& layer : layers) {
      const auto count = static_cast<size_t>(layer.heads.units_count);
      Vector z = input;
      z.insert(z.end(), h.begin() + static_cast<int64_t>(first), h.begin() + static_cast<int64_t>(first + count));
      for (const Map& map : layer.backbone) {
        z = map(z);
        for (double& v : z) v = activate(cell.activation, v);
      }
      const Vector sums = layer.heads(z);
      input.clear();
      for (size_t j = 0; j < count; ++j) {
        double value = 0;
        if (cell.mode == CfcMode::kPure) {
          const double a = layer.a.f32()[j], w_tau = layer.w_tau.f32()[j];
          value = a - a * std::exp(-dt * (std::abs(w_tau) + std::abs(sums[j]))) * sums[j];
        } else {
          const double s = sigmoid(sums[2 * count + j] * dt + sums[3 * count + j]);
          value = std::tanh(sums[j]) * (cell.mode == CfcMode::kNoGate ? 1 : 1 - s) + s * std::tanh(sums[count + j]);
        }
        h[first + j] = value;
        input.push_back(value);
      }
      first += count;
    }
  }
};

struct Shape2 {
  CfcMode mode = CfcMode::kDefault;
  CfcActivation activation = CfcActivation::kLecunTanh;
  std::vector<int64_t> units = {20};
  int64_t depth = 1;
  bool memory = false;
};

Reference make_reference(int64_t inputs, const Shape2& shape) {
  Reference out;
  out.cell.inputs = inputs;
  out.cell.mode = shape.mode;
  out.cell.activation = shape.activation;
  uint64_t seed = 100;
  int64_t width = inputs;
  for (const int64_t units : shape.units) {
    int64_t fan_in = width + units;
    std::vector<Map> backbone;
    for (int64_t l = 0; l < shape.depth; ++l) {
      backbone.emplace_back(fan_in, 33, 1, seed += 10);
      fan_in = 33;
    }
    const int64_t parts = shape.mode == CfcMode::kPure ? 1 : 4;
    out.layers.push_back({backbone, Map(fan_in, units, parts, seed += 10), {}, {}});
    Layer& layer = out.layers.back();
    if (shape.mode == CfcMode::kPure) {
      layer.w_tau = random_tensor({1, units}, seed += 10);
      layer.a = random_tensor({1, units}, seed += 10);
    }
    ops::CfcLayer packed{units, {}, layer.heads.packed, {}, {}};
    if (shape.mode == CfcMode::kPure) {
      packed.w_tau = formed(ops::CellRow(layer.w_tau));
      packed.a = formed(ops::CellRow(layer.a));
    }
    for (const Map& map : layer.backbone) packed.backbone.push_back(map.packed);
    out.cell.layers.push_back(packed);
    width = units;
  }
  if (shape.memory) {
    out.memory.emplace_back(inputs + out.cell.units(), out.cell.units(), 4, seed += 10);
    out.cell.memory = out.memory[0].packed;
  }
  return out;
}

StateLayout layout_of(const ops::CfcCell& cell) {
  StateLayout layout;
  std::vector<StateSpec> specs{{"h", DType::kF32, Shape{cell.units()}}};
  if (cell.memory.defined()) specs.push_back({"c", DType::kF32, Shape{cell.units()}});
  layout.add("0", specs);
  return layout;
}

Tensor run(Ctx& ctx, const Reference& reference, const Tensor& x, Seqs seqs, std::vector<State>& states) {
  const StateLayout layout = layout_of(reference.cell);
  std::vector<State*> pointers;
  std::vector<int64_t> lengths;
  for (size_t s = 0; s < states.size(); ++s) {
    pointers.push_back(&states[s]);
    lengths.push_back(seqs.length(static_cast<int64_t>(s)));
  }
  StateBatch batch;
  batch.bind(layout, pointers, lengths);
  const Tensor y = ops::cfc(ctx, x, reference.cell, seqs, batch.layer(0)).clone();
  batch.advance(lengths);
  return y;
}

// 2e-6: the recurrence contracts, so the rounding of a few dozen terms in f32 is not amplified.
void check(Machine& machine, const Shape2& shape) {
  constexpr int64_t kInputs = 5;
  const Reference reference = make_reference(kInputs, shape);
  const std::vector<int64_t> lengths = {1, 0, 30, 7};
  Seqs seqs = sequences(lengths);
  const Tensor x = random_tensor({seqs.rows(), kInputs}, 1);
  seqs.dt = random_tensor({seqs.rows()}, 2);
  for (int64_t n = 0; n < seqs.rows(); ++n) seqs.dt.f32()[n] = std::abs(seqs.dt.f32()[n]);
  std::vector<State> states(lengths.size());
  const Tensor y = run(machine.ctx, reference, x, seqs, states);
  const StateLayout layout = layout_of(reference.cell);
  const int64_t outputs = shape.units.back();
  for (size_t s = 0; s < lengths.size(); ++s) {
    Vector h(static_cast<size_t>(reference.cell.units())), c = h, expected;
    for (int64_t n = seqs.offsets[s]; n < seqs.offsets[s + 1]; ++n) {
      reference.step(Vector(x.f32() + n * kInputs, x.f32() + (n + 1) * kInputs), seqs.dt.f32()[n], h, c);
      expected.insert(expected.end(), h.end() - outputs, h.end());
    }
    EXPECT_LT(relative_error(y.f32() + seqs.offsets[s] * outputs, expected), 2e-6);
    const NamedTensors kept = states[s].tensors(layout);
    EXPECT_LT(relative_error(kept[0].tensor.f32(), h), 2e-6);
    if (shape.memory) {
      EXPECT_LT(relative_error(kept[1].tensor.f32(), c), 2e-6);
    }
  }
}

TEST(Cfc, AgreesWithF64) {
  for (const Isa isa : cpu::runnable_isas()) {
    Machine machine(isa);
    for (const CfcMode mode : {CfcMode::kDefault, CfcMode::kNoGate, CfcMode::kPure}) {
      for (const int64_t depth : {0, 1, 3}) check(machine, {.mode = mode, .depth = depth});
      check(machine, {.mode = mode, .units = {11, 6, 3}, .depth = 0});
      check(machine, {.mode = mode, .memory = true});
    }
    for (const CfcActivation activation :
         {CfcActivation::kTanh, CfcActivation::kRelu, CfcActivation::kSilu, CfcActivation::kGelu}) {
      check(machine, {.activation = activation, .units = {17}, .depth = 2});
    }
  }
}

// Numbers of an own double computation: one unit, z = (x, h) = (0.5, -0.25).
TEST(Cfc, OneUnitByHand) {
  Machine machine;
  const auto value = [&](CfcMode mode, float dt) {
    ops::CfcCell cell;
    cell.inputs = 1;
    cell.mode = mode;
    const float weights[4][2] = {{.3f, -.2f}, {-.4f, .6f}, {.7f, .1f}, {-.3f, .5f}};
    const float biases[4] = {.1f, -.05f, .2f, .4f};
    const int64_t parts = mode == CfcMode::kPure ? 1 : 4;
    ops::CfcLayer layer{1, {}, CellMap(2, 1, parts), {}, {}};
    for (int64_t p = 0; p < parts; ++p) {
      Tensor row(Shape{1, 2}, DType::kF32), bias(Shape{1}, DType::kF32);
      row.f32()[0] = weights[p][0];
      row.f32()[1] = weights[p][1];
      bias.f32()[0] = biases[p];
      layer.heads.add(p, 0, row);
      layer.heads.add_bias(p, bias);
    }
    layer.heads.pack(machine.stream);
    layer.w_tau = formed(ops::CellRow(Tensor(Shape{1, 1}, DType::kF32)));
    layer.a = formed(ops::CellRow(random_tensor({1, 1}, 1, 0.0f, 1.0f)));
    cell.layers.push_back(layer);
    Tensor x(Shape{1, 1}, DType::kF32), dt_row(Shape{1}, DType::kF32), h(Shape{1}, DType::kF32);
    x.f32()[0] = .5f;
    dt_row.f32()[0] = dt;
    h.f32()[0] = -.25f;
    const StateLayout layout = layout_of(cell);
    State state = State::from({{"0.h", h}}, 0, layout);
    Seqs seqs = sequences({1});
    seqs.dt = dt_row;
    State* const states[] = {&state};
    const int64_t lengths[] = {1};
    StateBatch batch;
    batch.bind(layout, states, lengths);
    return ops::cfc(machine.ctx, x, cell, seqs, batch.layer(0)).f32()[0];
  };
  EXPECT_NEAR(value(CfcMode::kDefault, 1), -.149713265, 2e-7);
  EXPECT_NEAR(value(CfcMode::kNoGate, 1), .041682169, 2e-7);
  EXPECT_NEAR(value(CfcMode::kPure, 1), .777754534, 2e-7);
  EXPECT_NEAR(value(CfcMode::kDefault, .5f), -.108544973, 2e-7);
  EXPECT_NEAR(value(CfcMode::kNoGate, .5f), .064984337, 2e-7);
  EXPECT_NEAR(value(CfcMode::kPure, .5f), .741787607, 2e-7);
}

// Wide enough that a lone sequence divides its units among the threads.
TEST(Cfc, CutsNeighboursAndThreadsChangeNoBit) {
  for (const Isa isa : cpu::runnable_isas()) {
    Machine one(isa, 1), three(isa, 3);
    const Reference reference = make_reference(700, {.units = {300}, .depth = 1, .memory = true});
    const Tensor x = random_tensor({9, 700}, 3);
    std::vector<State> together(2), alone(1), cut(1);
    const Tensor batched = run(one.ctx, reference, x, sequences({6, 3}), together);
    const Tensor solo = run(three.ctx, reference, x.rows(0, 6), sequences({6}), alone);
    EXPECT_TRUE(same_bits(batched.rows(0, 6), solo));
    std::vector<Tensor> parts;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 5}, {5, 6}}) {
      parts.push_back(run(three.ctx, reference, x.rows(begin, end), sequences({end - begin}), cut));
    }
    EXPECT_TRUE(same_bits(joined(parts), solo));
    const StateLayout layout = layout_of(reference.cell);
    for (size_t i = 0; i < 2; ++i) {
      const Tensor want = together[0].tensors(layout)[i].tensor;
      EXPECT_TRUE(same_bits(alone[0].tensors(layout)[i].tensor, want));
      EXPECT_TRUE(same_bits(cut[0].tensors(layout)[i].tensor, want));
    }
  }
}

TEST(Cfc, MaskedWeightsAreExactlyZero) {
  Tensor weight = random_tensor({3, 4}, 1), mask(Shape{3, 4}, DType::kF32);
  for (int64_t i = 0; i < 12; i += 2) mask.f32()[i] = 1;
  CellMap map(4, 3, 1), again(4, 3, 1);
  map.add(0, 0, weight, 0, mask);
  map.pack(Stream());
  for (int64_t i = 1; i < 12; i += 2) weight.f32()[i] = 1e30f;
  again.add(0, 0, weight, 0, mask);
  again.pack(Stream());
  EXPECT_TRUE(same_bits(map.weight(), again.weight()));
}

TEST(Cfc, WrongShapesAreRefused) {
  Machine machine;
  const Reference reference = make_reference(5, {});
  Seqs seqs = sequences({2});
  EXPECT_THROW(ops::cfc(machine.ctx, Tensor({2, 4}, DType::kF32), reference.cell, seqs, {}), Error);
  EXPECT_THROW(ops::cfc(machine.ctx, Tensor({3, 5}, DType::kF32), reference.cell, seqs, {}), Error);
  seqs.dt = Tensor({3}, DType::kF32);
  EXPECT_THROW(ops::cfc(machine.ctx, Tensor({2, 5}, DType::kF32), reference.cell, seqs, {}), Error);
  EXPECT_EQ(ops::cfc(machine.ctx, Tensor({0, 5}, DType::kF32), reference.cell, sequences({}), {}).dim(0), 0);
}

}  // namespace
}  // namespace carousel
