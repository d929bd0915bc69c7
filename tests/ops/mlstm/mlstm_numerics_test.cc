// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell under a numeric profile: the ways through a sequence, where epsilon stands, what is rounded.
#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/dtype.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/mlstm/mlstm.h"
#include "tests/isas.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

using Pieces = Numerics::Pieces;

float bf16(double x) { return to_float(to_bf16(static_cast<float>(x))); }

constexpr int64_t kHeads = 2, kDk = 6, kDv = 10, kRows = 100;

struct Cell {
  Cell() {
    dims.heads = kHeads;
    dims.dk = kDk;
    dims.dv = kDv;
    dims.gate_soft_cap = 15;
    dims.call_chunk = 16;
    layout.add("0", {{"C", DType::kF32, Shape{kHeads, kDk, kDv}},
                     {"n", DType::kF32, Shape{kHeads, kDk}},
                     {"m", DType::kF32, Shape{kHeads}}});
  }

  /// h of the rows, `piece` at a time.
  Tensor run(const Numerics& numerics, int64_t piece = kRows, Isa isa = cpu::best_isa(), int64_t rows = kRows) {
    Machine machine(isa);
    Ctx ctx{machine.stream, machine.arena, numerics};
    state = State();
    std::vector<Tensor> parts;
    for (int64_t t = 0; t < rows; t += piece) {
      const int64_t count = std::min(piece, rows - t);
      Seqs seqs = sequences({count});
      seqs.pos[0] = t;
      State* const states[] = {&state};
      const int64_t lengths[] = {count};
      StateBatch batch;
      batch.bind(layout, states, lengths);
      const auto at = [&](const Tensor& x) { return columns(x.rows(t, t + count)); };
      parts.push_back(ops::mlstm(ctx, {at(q), at(k), at(v), at(i), at(f)}, dims, seqs, batch.layer(0)).clone());
      batch.advance(lengths);
    }
    return joined(parts);
  }
  Tensor state_tensor(size_t index) const { return state.tensors(layout)[index].tensor.clone(); }

  ops::MlstmDims dims;
  StateLayout layout;
  State state;
  Tensor q = random_tensor({kRows, kHeads*kDk}, 1), k = random_tensor({kRows, kHeads*kDk}, 2);
  Tensor v = random_tensor({kRows, kHeads*kDv}, 3), i = random_tensor({kRows, kHeads}, 4, 3.0f);
  Tensor f = random_tensor({kRows, kHeads}, 5, 3.0f, 2.0f);
};

double distance(const Tensor& a, const Tensor& b) {
  return relative_error(a.f32(), std::vector<double>(b.f32(), b.f32() + b.count()));
}

Numerics pieces(Pieces how) {
  Numerics numerics;
  numerics.mlstm.pieces = how;
  return numerics;
}

TEST(MlstmPieces, AreOneCell) {
  Cell cell;
  for (const bool scale_keys : {false, true}) {
    cell.dims.scale_keys = scale_keys;
    const Tensor native = cell.run(Numerics::native());
    const Tensor c = cell.state_tensor(0), n = cell.state_tensor(1), m = cell.state_tensor(2);
    for (const Isa isa : tested_isas()) {
      for (const Pieces how : {Pieces::kCall, Pieces::kSteps}) {
        EXPECT_LE(distance(cell.run(pieces(how), kRows, isa), native), 5e-6);
        EXPECT_LE(distance(cell.state_tensor(0), c), 5e-6);
        EXPECT_LE(distance(cell.state_tensor(1), n), 5e-6);
        EXPECT_LE(distance(cell.state_tensor(2), m), 5e-6);
      }
    }
  }
}

TEST(MlstmPieces, StepsKnowNoCutsAndCallsKnowTheirChunks) {
  Cell cell;
  EXPECT_TRUE(same_bits(cell.run(pieces(Pieces::kSteps)), cell.run(pieces(Pieces::kSteps), 7)));
  const Tensor whole = cell.run(pieces(Pieces::kCall));
  EXPECT_TRUE(same_bits(whole, cell.run(pieces(Pieces::kCall), 32)));   // whole chunks
  EXPECT_FALSE(same_bits(whole, cell.run(pieces(Pieces::kCall), 30)));  // a chunk, then 14 steps
  EXPECT_TRUE(same_bits(cell.run(pieces(Pieces::kCall), 15), cell.run(pieces(Pieces::kSteps))));
  cell.dims.call_chunk = 20;
  EXPECT_FALSE(same_bits(whole, cell.run(pieces(Pieces::kCall))));
}

TEST(MlstmEps, StandsWhereTheProfileSays) {
  Cell cell;
  cell.dims.eps = 0;
  const Tensor without = cell.run(Numerics::native(), 1, cpu::best_isa(), 1);  // one row from zero
  const Tensor n = cell.state_tensor(1), m = cell.state_tensor(2);
  cell.dims.eps = 0.75f;
  Numerics inside;
  inside.mlstm.eps_in_max = true;
  for (const Pieces how : {Pieces::kGrid, Pieces::kSteps}) {
    inside.mlstm.pieces = how;
    const Tensor outer = cell.run(pieces(how), 1, cpu::best_isa(), 1);
    const Tensor inner = cell.run(inside, 1, cpu::best_isa(), 1);
    for (int64_t h = 0; h < kHeads; ++h) {
      double qn = 0;
      for (int64_t d = 0; d < kDk; ++d) {
        qn += double{cell.q.f32()[h * kDk + d]} / std::sqrt(double(kDk)) * double{n.f32()[h * kDk + d]};
      }
      const double floor = std::exp(-double{m.f32()[h]}), plain = std::max(std::abs(qn), floor);
      for (int64_t j = h * kDv; j < (h + 1) * kDv; ++j) {
        const double num = double{without.f32()[j]} * plain;
        EXPECT_NEAR(outer.f32()[j], num / (plain + 0.75), 1e-5 * (1 + std::abs(num)));
        EXPECT_NEAR(inner.f32()[j], num / std::max(std::abs(qn) + 0.75, floor), 1e-5 * (1 + std::abs(num)));
      }
    }
  }
  EXPECT_LE(distance(cell.run(inside, kRows), cell.run(inside, 1)), 1e-5);  // chunks put it where steps do
}

TEST(MlstmSoftCap, OfTheProfilesTypeIsASoftCapBeforeTheCell) {
  Cell cell;
  Numerics numerics;
  numerics.gate_soft_cap = DType::kBF16;
  const Tensor got = cell.run(numerics);
  EXPECT_GT(distance(got, cell.run(Numerics::native())), 1e-4);
  Machine machine;
  cell.i = cell.i.clone();
  ops::soft_cap(machine.ctx, cell.i, 15, DType::kBF16);
  ops::soft_cap(machine.ctx, cell.f, 15, DType::kBF16);
  cell.dims.gate_soft_cap = 0;
  EXPECT_TRUE(same_bits(got, cell.run(Numerics::native())));
}

// With an input gate that is all but shut the stabiliser is the sum of log f alone.
TEST(MlstmGates, LogSigmoidIsRoundedInTheRowwiseForms) {
  Cell cell;
  cell.dims.gate_soft_cap = 0;
  cell.i = random_tensor({kRows, kHeads}, 6, 0.0f, -1000.0f);
  Numerics numerics = pieces(Pieces::kSteps);
  numerics.gates = DType::kBF16;
  cell.run(numerics, 1, cpu::best_isa(), 1);
  for (int64_t h = 0; h < kHeads; ++h) {
    const double f = cell.f.f32()[h];
    EXPECT_EQ(cell.state_tensor(2).f32()[h], bf16(-std::log1p(std::exp(-f))));
  }
}

TEST(MlstmActivations, ResultsAreOfTheProfilesType) {
  Cell cell;
  for (const Pieces how : {Pieces::kGrid, Pieces::kCall, Pieces::kSteps}) {
    Numerics numerics = pieces(how);
    numerics.activations = DType::kBF16;
    const Tensor h = cell.run(numerics);
    for (int64_t i = 0; i < h.count(); ++i) ASSERT_EQ(h.f32()[i], bf16(h.f32()[i]));
    const double from_native = distance(h, cell.run(Numerics::native()));
    EXPECT_GT(from_native, 1e-4);
    EXPECT_LT(from_native, 5e-2);
  }
}

}  // namespace
}  // namespace carousel
