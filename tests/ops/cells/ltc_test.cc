// SPDX-License-Identifier: Apache-2.0
// ops::ltc against its formula in f64, numbers computed by hand, and the limits the equation has.
#include "carousel/ops/cells/ltc.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using Vector = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Parameters as a file holds them, the constrained ones already constrained.
using Synapses = ops::LtcSynapseParams;

struct Cell {
  Synapses sensory, recurrent;
  Tensor cm, gleak, vleak;  // [N]
  ops::LtcCell packed;

  void pack(int64_t outputs) {
    ops::LtcParams params = {gleak, vleak, cm, sensory, recurrent};
    params.implicit = false;
    packed = formed(ops::LtcCell(params, {}));
    packed.outputs = outputs;
  }

  static void add(const Synapses& synapses, size_t j, const Vector& from, double& current, double& conductance) {
    const auto units = static_cast<size_t>(synapses.w.dim(1));
    for (size_t i = 0; i < from.size(); ++i) {
      const size_t ij = i * units + j;
      if (synapses.mask.f32()[ij] == 0) continue;
      const double a =
          synapses.w.f32()[ij] * sigmoid(double{synapses.sigma.f32()[ij]} * (from[i] - double{synapses.mu.f32()[ij]}));
      current += a * double{synapses.erev.f32()[ij]};
      conductance += a;
    }
  }

  void step(const Vector& x, double dt, Vector& v) const {
    Vector input = x;
    for (size_t i = 0; i < x.size(); ++i) {
      if (packed.input_w.defined()) input[i] *= double{packed.input_w.f32()[i]};
      if (packed.input_b.defined()) input[i] += double{packed.input_b.f32()[i]};
    }
    for (int64_t k = 0; k < packed.unfolds; ++k) {
      Vector next;
      for (size_t j = 0; j < v.size(); ++j) {
        double current = 0, conductance = 0;
        add(sensory, j, input, current, conductance);
        add(recurrent, j, v, current, conductance);
        const double c = double{cm.f32()[j]} / (dt / static_cast<double>(packed.unfolds));
        const double leak = gleak.f32()[j];
        next.push_back((c * v[j] + leak * double{vleak.f32()[j]} + current) /
                       (c + leak + conductance + double{packed.epsilon}));
      }
      v = next;
    }
  }
};

Tensor uniform(Shape shape, uint64_t seed, double low, double high) {
  Tensor out(shape, DType::kF32);
  Rng rng(seed);
  for (int64_t i = 0; i < out.count(); ++i) out.f32()[i] = static_cast<float>(low + (high - low) * rng.uniform());
  return out;
}

Synapses random_synapses(int64_t sources, int64_t units, uint64_t seed) {
  Synapses out;
  const Shape shape{sources, units};
  out.w = uniform(shape, seed, 0.01, 1);
  out.mu = uniform(shape, seed + 1, 0.3, 0.8);
  out.sigma = uniform(shape, seed + 2, 3, 8);
  out.erev = uniform(shape, seed + 3, -1, 1);
  out.mask = uniform(shape, seed + 4, 0, 1);
  for (int64_t i = 0; i < out.mask.count(); ++i) out.mask.f32()[i] = out.mask.f32()[i] < 0.5f ? 1.0f : 0.0f;
  return out;
}

Cell random_cell(int64_t inputs, int64_t units, int64_t outputs) {
  Cell cell;
  cell.sensory = random_synapses(inputs, units, 10);
  cell.recurrent = random_synapses(units, units, 20);
  cell.cm = uniform({units}, 30, 0.4, 0.6);
  cell.gleak = uniform({units}, 31, 0.01, 1);
  cell.vleak = uniform({units}, 32, -0.2, 0.2);
  cell.pack(outputs);
  cell.packed.input_w = uniform({inputs}, 33, 0.5, 1.5);
  cell.packed.input_b = uniform({inputs}, 34, -0.5, 0.5);
  cell.packed.output_w = uniform({outputs}, 35, 0.5, 1.5);
  cell.packed.output_b = uniform({outputs}, 36, -0.5, 0.5);
  return cell;
}

/// The same cell, packed in another memory.
ops::LtcCell on(Memory& memory, const Cell& cell) {
  const auto moved = [&](const Synapses& s) {
    return Synapses{s.w.to(memory), s.mask.to(memory), s.mu.to(memory), s.sigma.to(memory), s.erev.to(memory)};
  };
  ops::LtcParams params = {cell.gleak.to(memory), cell.vleak.to(memory), cell.cm.to(memory), moved(cell.sensory),
                           moved(cell.recurrent)};
  params.implicit = false;
  ops::LtcCell out = formed(ops::LtcCell(params, {}));
  out.outputs = cell.packed.outputs;
  out.input_w = cell.packed.input_w.to(memory);
  out.input_b = cell.packed.input_b.to(memory);
  out.output_w = cell.packed.output_w.to(memory);
  out.output_b = cell.packed.output_b.to(memory);
  return out;
}

StateLayout layout_of(const ops::LtcCell& cell) {
  StateLayout layout;
  layout.add("0", {{"v", DType::kF32, Shape{cell.units}}});
  return layout;
}

Tensor run(Ctx& ctx, const ops::LtcCell& cell, const Tensor& x, const Seqs& seqs, std::vector<State>& states) {
  const StateLayout layout = layout_of(cell);
  std::vector<State*> pointers;
  std::vector<int64_t> lengths;
  for (size_t s = 0; s < states.size(); ++s) {
    pointers.push_back(&states[s]);
    lengths.push_back(seqs.length(static_cast<int64_t>(s)));
  }
  Memory& memory = *ctx.stream.memory;
  Seqs there = seqs;
  there.bring_to(memory);
  if (there.dt.defined()) there.dt = there.dt.to(memory);
  StateBatch batch;
  batch.bind(layout, pointers, lengths, memory);
  const Tensor y = ops::ltc(ctx, x.to(memory), cell, there, batch.layer(0)).clone().to_host();
  batch.advance(lengths);
  return y;
}

/// Potentials after one row from `v`.
Vector after_row(const ops::LtcCell& cell, const std::vector<float>& x, const std::vector<float>& v, float dt) {
  Machine machine;
  Tensor input({1, static_cast<int64_t>(x.size())}, DType::kF32), start({cell.units}, DType::kF32);
  std::copy(x.begin(), x.end(), input.f32());
  std::copy(v.begin(), v.end(), start.f32());
  std::vector<State> states{State::from({{"0.v", start}}, 0, layout_of(cell))};
  Seqs seqs = sequences({1});
  seqs.dt = Tensor({1}, DType::kF32);
  seqs.dt.f32()[0] = dt;
  run(machine.ctx, cell, input, seqs, states);
  const Tensor out = states[0].tensors(layout_of(cell))[0].tensor;
  return Vector(out.f32(), out.f32() + cell.units);
}

// 5e-6: six solver steps per row, each a quotient of sums of up to 40 terms in f32.
TEST(Ltc, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const int64_t units : {1, 15, 33}) {
      const int64_t outputs = (units + 1) / 2;
      const Cell cell = random_cell(6, units, outputs);
      const std::vector<int64_t> lengths = {1, 0, 20, 7};
      Seqs seqs = sequences(lengths);
      const Tensor x = random_tensor({seqs.rows(), 6}, 1);
      seqs.dt = uniform({seqs.rows()}, 2, 0.05, 3);
      std::vector<State> states(lengths.size());
      const Tensor y = run(machine.ctx, on(machine.memory(), cell), x, seqs, states);
      for (size_t s = 0; s < lengths.size(); ++s) {
        Vector v(static_cast<size_t>(units)), expected;
        for (int64_t n = seqs.offsets[s]; n < seqs.offsets[s + 1]; ++n) {
          cell.step(Vector(x.f32() + n * 6, x.f32() + (n + 1) * 6), seqs.dt.f32()[n], v);
          for (int64_t m = 0; m < outputs; ++m) {
            expected.push_back(v[static_cast<size_t>(m)] * double{cell.packed.output_w.f32()[m]} +
                               double{cell.packed.output_b.f32()[m]});
          }
        }
        EXPECT_LT(relative_error(y.f32() + seqs.offsets[s] * outputs, expected), 5e-6);
        EXPECT_LT(relative_error(states[s].tensors(layout_of(cell.packed))[0].tensor.f32(), v), 5e-6);
      }
    }
  }
}

Tensor values(Shape shape, const std::vector<float>& numbers) {
  Tensor out(shape, DType::kF32);
  std::copy(numbers.begin(), numbers.end(), out.f32());
  return out;
}

// Two neurons that excite and inhibit each other; an own double computation.
TEST(Ltc, TwoNeuronsByHand) {
  Cell cell;
  cell.recurrent = {values({2, 2}, {.5f, .6f, .7f, .8f}), values({2, 2}, {0, 1, 1, 0}),
                    values({2, 2}, {.3f, .4f, .5f, .6f}), values({2, 2}, {3, 4, 5, 6}), values({2, 2}, {0, 1, -1, 0})};
  cell.sensory = {values({1, 2}, {.9f, .2f}), values({1, 2}, {1, 1}), values({1, 2}, {.3f, .7f}),
                  values({1, 2}, {3.5f, 4.5f}), values({1, 2}, {1, -1})};
  cell.gleak = values({2}, {.2f, .4f});
  cell.vleak = values({2}, {.1f, -.1f});
  cell.cm = values({2}, {.45f, .55f});
  cell.pack(1);
  const Vector six = after_row(cell.packed, {.6f}, {.1f, -.2f}, 1.0f);
  EXPECT_NEAR(six[0], .588652404, 5e-7);
  EXPECT_NEAR(six[1], .126105163, 5e-7);
  cell.packed.unfolds = 1;
  const Vector one = after_row(cell.packed, {.6f}, {.1f, -.2f}, 1.0f / 6);
  EXPECT_NEAR(one[0], .260976438, 5e-7);
  EXPECT_NEAR(one[1], -.163141848, 5e-7);
}

TEST(Ltc, OneNeuronByHand) {
  Cell cell;
  cell.recurrent = {values({1, 1}, {.5f}), values({1, 1}, {1}), values({1, 1}, {.4f}), values({1, 1}, {5}),
                    values({1, 1}, {1})};
  cell.sensory = {values({1, 1}, {.7f}), values({1, 1}, {1}), values({1, 1}, {.5f}), values({1, 1}, {4}),
                  values({1, 1}, {-1})};
  cell.gleak = values({1}, {.3f});
  cell.vleak = values({1}, {.1f});
  cell.cm = values({1}, {.5f});
  cell.pack(1);
  EXPECT_NEAR(after_row(cell.packed, {.8f}, {.2f}, 1.0f)[0], -.383348500, 5e-7);
  EXPECT_NEAR(after_row(cell.packed, {.8f}, {.2f}, .25f)[0], -.035219502, 5e-7);
}

TEST(Ltc, NoTimeLeavesThePotentialsAlone) {
  const Cell cell = random_cell(3, 5, 2);
  const std::vector<float> start{.1f, -.2f, .3f, .4f, -.5f};
  const Vector none = after_row(cell.packed, {1, 2, 3}, start, 0.0f);
  const Vector little = after_row(cell.packed, {1, 2, 3}, start, 1e-7f);
  for (size_t j = 0; j < start.size(); ++j) {
    EXPECT_EQ(none[j], double{start[j]});
    EXPECT_NEAR(little[j], double{start[j]}, 1e-5);
  }
}

TEST(Ltc, WithoutSynapsesItLeaksToItsRestMonotonically) {
  Cell cell = random_cell(2, 4, 1);
  for (Synapses* synapses : {&cell.sensory, &cell.recurrent})
    std::fill_n(synapses->mask.f32(), synapses->mask.count(), 0.0f);
  cell.pack(1);
  std::vector<float> v{1, 1, -1, -1};
  for (int row = 0; row < 60; ++row) {
    const Vector next = after_row(cell.packed, {5, -5}, v, 1.0f);
    for (size_t j = 0; j < v.size(); ++j) {
      const double rest = cell.vleak.f32()[j];
      EXPECT_LE(std::abs(next[j] - rest), std::abs(double{v[j]} - rest) + 1e-6);
      v[j] = static_cast<float>(next[j]);
    }
  }
}

// With reversal potentials and rests in [-1, 1] a step is a convex combination.
TEST(Ltc, PotentialsStayWithinTheReversalPotentials) {
  const Cell cell = random_cell(3, 20, 2);
  Machine machine;
  Seqs seqs = sequences({400});
  const Tensor x = random_tensor({400, 3}, 5, 20.0f);
  std::vector<State> states(1);
  run(machine.ctx, cell.packed, x, seqs, states);
  const Tensor v = states[0].tensors(layout_of(cell.packed))[0].tensor;
  for (int64_t j = 0; j < 20; ++j) EXPECT_LE(std::abs(v.f32()[j]), 1 + 1e-6f);
}

TEST(Ltc, MaskedSynapsesDoNothing) {
  Cell cell = random_cell(3, 20, 2);
  const std::vector<float> start(20, 0.3f);
  const Vector before = after_row(cell.packed, {1, -1, 0.5f}, start, 1);
  for (Synapses* synapses : {&cell.sensory, &cell.recurrent}) {
    for (int64_t i = 0; i < synapses->w.count(); ++i) {
      if (synapses->mask.f32()[i] != 0) continue;
      synapses->w.f32()[i] = 1e20f;
      synapses->erev.f32()[i] = -1e10f;
    }
  }
  Cell changed = cell;
  changed.pack(2);
  changed.packed.input_w = cell.packed.input_w;
  changed.packed.input_b = cell.packed.input_b;
  EXPECT_EQ(after_row(changed.packed, {1, -1, 0.5f}, start, 1), before);
}

TEST(Ltc, CutsNeighboursAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    // Wide: a lone sequence divides its neurons among the threads.
    const ops::LtcCell cell = on(one.memory(), random_cell(40, 200, 7));
    const Tensor x = random_tensor({9, 40}, 3);
    std::vector<State> together(2), alone(1), cut(1);
    const Tensor batched = run(one.ctx, cell, x, sequences({6, 3}), together);
    const Tensor solo = run(three.ctx, cell, x.rows(0, 6), sequences({6}), alone);
    EXPECT_TRUE(same_bits(batched.rows(0, 6), solo));
    std::vector<Tensor> parts;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 5}, {5, 6}}) {
      parts.push_back(run(three.ctx, cell, x.rows(begin, end), sequences({end - begin}), cut));
    }
    EXPECT_TRUE(same_bits(joined(parts), solo));
    const StateLayout layout = layout_of(cell);
    EXPECT_TRUE(same_bits(cut[0].tensors(layout)[0].tensor, together[0].tensors(layout)[0].tensor));
  }
}

TEST(Ltc, WrongShapesAreRefused) {
  Machine machine;
  const Cell cell = random_cell(3, 5, 2);
  EXPECT_THROW(ops::ltc(machine.ctx, Tensor({2, 4}, DType::kF32), cell.packed, sequences({2}), {}), Error);
  Seqs seqs = sequences({2});
  seqs.dt = Tensor({1}, DType::kF32);
  EXPECT_THROW(ops::ltc(machine.ctx, Tensor({2, 3}, DType::kF32), cell.packed, seqs, {}), Error);
  EXPECT_EQ(ops::ltc(machine.ctx, Tensor({0, 3}, DType::kF32), cell.packed, sequences({}), {}).dim(0), 0);
}

}  // namespace
}  // namespace carousel
