// SPDX-License-Identifier: Apache-2.0
// ops::mlstm against the paper's recurrence in f64, the golden vectors of three worked sequences, and its promises:
// chunks agree with steps, cuts on the chunk grid, batches and threads change no bit.
#include "carousel/ops/mlstm/mlstm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "tests/ops/mlstm/mlstm_runs.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using ops::MlstmDims;

/// The same without states.
Tensor stateless(const Machine& machine, Ctx& ctx, const MlstmTensors& in, const MlstmDims& dims, const Seqs& seqs) {
  return run(ctx, on(machine.memory(), in), dims, machine.on(seqs), {}).to_host();
}

const int64_t kLengths[] = {0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300};

MlstmDims dims_of(int64_t heads, int64_t dk, int64_t dv, float cap = 15.0f) { return {heads, dk, dv, cap, 1e-6f}; }

const MlstmDims kShapes[] = {dims_of(1, 3, 5),    dims_of(1, 16, 64), dims_of(2, 48, 33),       dims_of(3, 32, 160),
                             dims_of(4, 64, 128), dims_of(1, 1, 1),   dims_of(2, 5, 257, 0.0f), dims_of(2, 300, 130)};

TEST(Mlstm, AgreesWithTheRecurrence) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const MlstmDims& dims : kShapes) {
      const std::vector<int64_t> lengths(std::begin(kLengths), std::end(kLengths));
      const Seqs seqs = sequences(lengths);
      const MlstmTensors in = random_inputs(seqs.rows(), dims, 7);
      std::vector<State> states(lengths.size());
      std::vector<State*> pointers;
      for (State& state : states) pointers.push_back(&state);
      const Tensor h = advance(machine.ctx, in, dims, pointers, lengths);
      EXPECT_TRUE(same_bits(h, stateless(machine, machine.ctx, in, dims, seqs)));
      for (int64_t s = 0; s < seqs.batch(); ++s) {
        const NamedTensors kept = states[static_cast<size_t>(s)].tensors(layout_of(dims));
        for (int64_t head = 0; head < dims.heads; ++head) {
          const int64_t first = seqs.offsets[static_cast<size_t>(s)];
          const Reference r = reference(in, dims, first, seqs.length(s), head);
          const std::vector<float> got = head_rows(h, dims, first, seqs.length(s), head);
          // f32 sums of up to 300 terms; q.n may nearly cancel in a row, which amplifies its rounding.
          EXPECT_LT(relative_error(got.data(), r.h), 2e-5)
              << target << " T " << seqs.length(s) << " dk " << dims.dk << " dv " << dims.dv;
          EXPECT_LT(relative_error(kept[0].tensor.f32() + head * dims.dk * dims.dv, r.c), 5e-6);
          EXPECT_LT(relative_error(kept[1].tensor.f32() + head * dims.dk, r.n), 5e-6);
          EXPECT_NEAR(kept[2].tensor.f32()[head], r.m, 2e-6 * std::max(1.0, std::abs(r.m)));
        }
      }
    }
  }
}

TEST(Mlstm, ChunkedEqualsStepped) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const MlstmDims& dims : kShapes) {
      const MlstmTensors in = random_inputs(200, dims, 21);
      State chunked, stepped;
      std::vector<int64_t> every_row;
      for (int64_t t = 1; t <= 200; ++t) every_row.push_back(t);
      const Tensor a = in_pieces(machine.ctx, in, dims, &chunked, {200});
      const Tensor b = in_pieces(machine.ctx, in, dims, &stepped, every_row);
      const std::vector<double> expected(b.f32(), b.f32() + b.count());
      EXPECT_LT(relative_error(a.f32(), expected), 2e-5) << target << " dk " << dims.dk;
    }
  }
}

TEST(Mlstm, CutsOnTheChunkGridChangeNoBit) {
  for (const Target& target : targets()) {
    Machine machine(target);
    const MlstmDims dims = dims_of(2, 48, 80);
    const MlstmTensors in = random_inputs(300, dims, 3);
    State whole, cut;
    const Tensor a = in_pieces(machine.ctx, in, dims, &whole, {300});
    const Tensor b = in_pieces(machine.ctx, in, dims, &cut, {64, 64, 192, 256, 300});
    EXPECT_TRUE(same_bits(a, b));
    EXPECT_TRUE(same_state(whole, cut, dims));
    // A start off the grid is taken back to it: 50 + 14 rows, then whole chunks.
    State off, off_again;
    in_pieces(machine.ctx, in, dims, &off, {50, 300});
    in_pieces(machine.ctx, in, dims, &off_again, {50, 64, 128, 300});
    EXPECT_TRUE(same_state(off, off_again, dims));
  }
}

TEST(Mlstm, NeighboursAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    // One head of 512 columns: three threads share it. Two heads: the third thread helps with either. Four: one is
    // left.
    for (const MlstmDims& dims : {dims_of(1, 64, 512), dims_of(2, 64, 200), dims_of(4, 32, 96), dims_of(1, 48, 200)}) {
      const std::vector<int64_t> lengths = {1, 130, 0, 64, 65, 1};
      const Seqs seqs = sequences(lengths);
      const MlstmTensors in = random_inputs(seqs.rows(), dims, 5);
      Machine one(target, 1), three(target, 3);
      std::vector<State> batched(lengths.size());
      std::vector<State*> pointers;
      for (State& state : batched) pointers.push_back(&state);
      const Tensor h = advance(three.ctx, in, dims, pointers, lengths);
      for (size_t s = 0; s < lengths.size(); ++s) {
        const MlstmTensors own = in.rows(seqs.offsets[s], seqs.offsets[s + 1]);
        for (Machine* machine : {&one, &three}) {
          State alone;
          EXPECT_TRUE(same_bits(advance(machine->ctx, own, dims, {&alone}, {lengths[s]}),
                                h.rows(seqs.offsets[s], seqs.offsets[s + 1])));
          EXPECT_TRUE(same_state(alone, batched[s], dims));
        }
      }
    }
  }
}

TEST(Mlstm, ForkedStateContinuesAndLeavesItsParent) {
  Machine machine;
  const MlstmDims dims = dims_of(2, 32, 64);
  const MlstmTensors in = random_inputs(100, dims, 9);
  State parent;
  in_pieces(machine.ctx, in, dims, &parent, {70});
  const State kept = parent;
  State fork = parent;
  const Tensor a = advance(machine.ctx, in.rows(70, 100), dims, {&fork}, {30});
  EXPECT_TRUE(same_state(parent, kept, dims));
  EXPECT_TRUE(same_bits(a, advance(machine.ctx, in.rows(70, 100), dims, {&parent}, {30})));
}

struct Golden {
  std::vector<float> i, f;
  std::vector<std::vector<double>> h;  // rows 1 .. ; an empty one is not compared
  double m;
  std::vector<double> n, c;
  double tolerance;  // relative; h is printed to 9 digits
};

TEST(Mlstm, GoldenVectors) {
  const Golden cases[] = {
      {{-10, -9.5f, -10, -8},
       {3, 4, 5, 6},
       {{-4.81538514e-05, -9.63077029e-05, 4.81538514e-05}, {}, {}, {-1.36975431e-4, 5.40847514e-4, -1.18809154e-4}},
       -0.0759283131,
       {1.07584152e-4, 3.34683263e-4},
       {},
       3e-6},
      {{.5f, -1, 2, 0},
       {1, -2, 3, 0},
       {{-.999999057, -1.99999811, .999999057},
        {.0207103024, .187743703, -.0694846684},
        {2.11264447, -1.04907572, -3.13781737},
        {-1.76902785, 1.05585045, 2.52353028}},
       1.30685282,
       {1.53290994, -.247947794},
       {-3.01104476, 1.61671692, 4.41966419, 1.03719281, -.258180854, -1.72833927},
       3e-6},
      {{15, 14, -15, 15},
       {15, -15, 15, -15},
       {{-.999999057, -1.99999811, .999999057},
        {-.49999756, .500000886, -1.10870167e-6},
        {.499999667, -.499998836, -2.77176834e-7},
        {-6.75208465e-8, .999999071, -.999999004}},
       15,
       {},
       {},
       3e-6},
  };
  const float q[] = {1, -2, .5f, .25f, -1, 1, 2, 1}, k[] = {.5f, 1, -1, .5f, 1.5f, -.5f, .25f, .75f};
  const float v[] = {1, 2, -1, .5f, -.5f, 0, -2, 1, 3, 0, 1, -1};
  const MlstmDims dims = dims_of(1, 2, 3, 0.0f);
  for (const Target& target : targets()) {
    for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{4}, {1, 2, 3, 4}, {1, 4}}) {
      for (const Golden& golden : cases) {
        Machine machine(target);
        const MlstmTensors in = {Tensor({4, 2}, DType::kF32), Tensor({4, 2}, DType::kF32), Tensor({4, 3}, DType::kF32),
                                 Tensor({4, 1}, DType::kF32), Tensor({4, 1}, DType::kF32)};
        std::memcpy(in.q.raw(), q, sizeof q);
        std::memcpy(in.k.raw(), k, sizeof k);
        std::memcpy(in.v.raw(), v, sizeof v);
        std::memcpy(in.i_pre.raw(), golden.i.data(), 16);
        std::memcpy(in.f_pre.raw(), golden.f.data(), 16);
        State state;
        const Tensor h = in_pieces(machine.ctx, in, dims, &state, cuts);
        for (size_t t = 0; t < golden.h.size(); ++t) {
          if (golden.h[t].empty()) continue;
          EXPECT_LT(relative_error(h.f32() + 3 * t, golden.h[t]), golden.tolerance) << "row " << t;
        }
        const NamedTensors kept = state.tensors(layout_of(dims));
        EXPECT_NEAR(kept[2].tensor.f32()[0], golden.m, 1e-6);
        if (!golden.n.empty()) {
          EXPECT_LT(relative_error(kept[1].tensor.f32(), golden.n), golden.tolerance);
        }
        if (!golden.c.empty()) {
          EXPECT_LT(relative_error(kept[0].tensor.f32(), golden.c), golden.tolerance);
        }
      }
    }
  }
}

TEST(Mlstm, ExtremeGatesStayFinite) {
  const float extremes[] = {15, -15, 1e4f, -1e4f, 0, -90, 90};
  for (const Target& target : targets()) {
    for (const float cap : {0.0f, 15.0f}) {
      Machine machine(target);
      const MlstmDims dims = dims_of(1, 4, 6, cap);
      const MlstmTensors in = random_inputs(98, dims, 31);
      for (int64_t t = 0; t < 98; ++t) {
        in.i_pre.f32()[t] = extremes[t / 2 % 7];
        in.f_pre.f32()[t] = extremes[t / 14 % 7];
      }
      std::vector<int64_t> every_row;
      for (int64_t t = 1; t <= 98; ++t) every_row.push_back(t);
      for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{98}, every_row}) {
        State state;
        const Tensor h = in_pieces(machine.ctx, in, dims, &state, cuts);
        for (int64_t j = 0; j < h.count(); ++j) ASSERT_TRUE(std::isfinite(h.f32()[j])) << j << " cap " << cap;
        for (const NamedTensor& kept : state.tensors(layout_of(dims))) {
          for (int64_t j = 0; j < kept.tensor.count(); ++j) ASSERT_TRUE(std::isfinite(kept.tensor.f32()[j]));
        }
      }
    }
  }
}

TEST(Mlstm, LargeForgetLogsDoNotBlurTheRest) {
  // One gate of -1e4 puts the running sum of log f near 1e4, where an f32 has steps of 1e-3.
  Machine machine;
  const MlstmDims dims = dims_of(1, 8, 8, 0.0f);
  const MlstmTensors in = random_inputs(64, dims, 33);
  in.f_pre.f32()[3] = -1e4f;
  const Tensor h = run(machine.ctx, in, dims, sequences({64}), {});
  EXPECT_LT(relative_error(h.f32(), reference(in, dims, 0, 64, 0).h), 1e-5);
}

TEST(Mlstm, ZeroKeysGiveZero) {
  Machine machine;
  const MlstmDims dims = dims_of(2, 16, 16);
  MlstmTensors in = random_inputs(70, dims, 1);
  in.k = Tensor({70, 32}, DType::kF32);
  const Tensor h = run(machine.ctx, in, dims, sequences({70}), {});
  for (int64_t j = 0; j < h.count(); ++j) ASSERT_EQ(h.f32()[j], 0.0f);
}

TEST(Mlstm, EmptyBatches) {
  Machine machine;
  const MlstmDims dims = dims_of(2, 16, 16);
  const MlstmTensors in = random_inputs(0, dims, 1);
  EXPECT_EQ(run(machine.ctx, in, dims, sequences({}), {}).dim(0), 0);
  EXPECT_EQ(run(machine.ctx, in, dims, sequences({0, 0}), {}).dim(0), 0);
}

TEST(Mlstm, WrongDimsAreRefused) {
  Machine machine;
  const MlstmTensors in = random_inputs(2, dims_of(2, 16, 16), 1);
  EXPECT_THROW(run(machine.ctx, in, dims_of(0, 16, 16), sequences({2}), {}), Error);
  EXPECT_THROW(run(machine.ctx, in, dims_of(2, 17, 16), sequences({2}), {}), Error);
}

// With keys scaled instead of queries h is the same, and C and n hold keys Dk^-1/2 times as large.
TEST(Mlstm, ScaledKeysGiveTheSameOutputsAndSmallerStates) {
  const MlstmDims plain{2, 24, 40, 0, 1e-6f};
  MlstmDims scaled = plain;
  scaled.scale_keys = true;
  const float factor = 1 / std::sqrt(24.0f);
  for (const Target& target : targets()) {
    Machine machine(target);
    const MlstmTensors in = random_inputs(130, plain, 9);
    for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{130}, {64, 65, 66, 67, 68, 130}}) {
      State a, b;
      const Tensor h = in_pieces(machine.ctx, in, plain, &a, cuts);
      const Tensor other = in_pieces(machine.ctx, in, scaled, &b, cuts);
      EXPECT_LT(relative_error(other.f32(), std::vector<double>(h.f32(), h.f32() + h.count())), 3e-6);
      const NamedTensors x = a.tensors(layout_of(plain)), y = b.tensors(layout_of(plain));
      for (size_t i = 0; i < 2; ++i) {
        std::vector<double> expected(x[i].tensor.f32(), x[i].tensor.f32() + x[i].tensor.count());
        for (double& value : expected) value *= double{factor};
        EXPECT_LT(relative_error(y[i].tensor.f32(), expected), 3e-6);
      }
    }
  }
}

}  // namespace
}  // namespace carousel
