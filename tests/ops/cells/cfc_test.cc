// SPDX-License-Identifier: Apache-2.0
// ops::cfc against its formulas in f64, for every mode and activation, layers, memory and elapsed times.
#include "carousel/ops/cells/cfc.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "tests/ops/cells/cfc_reference.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using cfc_reference::make_reference;
using cfc_reference::Reference;
using cfc_reference::Shape2;
using ops::CellMap;
using ops::CfcActivation;
using ops::CfcMode;

using Vector = std::vector<double>;

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
  Memory& memory = *ctx.stream.memory;
  seqs.bring_to(memory);
  if (seqs.dt.defined()) seqs.dt = seqs.dt.to(memory);
  StateBatch batch;
  batch.bind(layout, pointers, lengths, memory);
  const Tensor y = ops::cfc(ctx, x.to(memory), reference.cell, seqs, batch.layer(0)).clone().to_host();
  batch.advance(lengths);
  return y;
}

// 2e-6: the recurrence contracts, so the rounding of a few dozen terms in f32 is not amplified.
void check(Machine& machine, const Shape2& shape) {
  constexpr int64_t kInputs = 5;
  const Reference reference = make_reference(kInputs, shape, machine.memory());
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
  for (const Target& target : targets()) {
    Machine machine(target);
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
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    const Reference reference = make_reference(700, {.units = {300}, .depth = 1, .memory = true}, one.memory());
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
