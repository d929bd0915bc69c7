// SPDX-License-Identifier: Apache-2.0
// Gradients of ops::mlstm against central differences of the recurrence in f64, and their promises: threads, neighbours
// and the tape change no bit; gradients of states join the parts of a sequence.
#include <gtest/gtest.h>

#include <cmath>
#include <string_view>
#include <tuple>
#include <vector>

#include "tests/isas.h"
#include "tests/ops/gradients.h"
#include "tests/ops/mlstm/mlstm_reference.h"

namespace carousel {
namespace {

using ops::MlstmDims;
using Lengths = std::vector<int64_t>;

/// States of a batch, or their gradients: drawn, at these positions.
std::vector<State> drawn_states(const MlstmDims& dims, const Lengths& positions, uint64_t seed) {
  const StateLayout layout = layout_of(dims);
  std::vector<State> states;
  for (const int64_t pos : positions) {
    const NamedTensors tensors = {{"0.C", random_tensor({dims.heads, dims.dk, dims.dv}, ++seed)},
                                  {"0.n", random_tensor({dims.heads, dims.dk}, ++seed)},
                                  {"0.m", random_tensor({dims.heads}, ++seed)}};
    states.push_back(State::from(tensors, pos, layout));
  }
  return states;
}

std::vector<State*> pointers(std::vector<State>& states) {
  std::vector<State*> all;
  for (State& state : states) all.push_back(&state);
  return all;
}

struct Batch {
  MlstmDims dims;
  Lengths lengths, positions;
  MlstmTensors in;
  Tensor weights;                              // [N, H*Dv]: the loss is the sum of weights * h
  std::vector<State> states, state_gradients;  // empty: zero states that nobody reads
};

Batch drawn(const MlstmDims& dims, const Lengths& lengths, const Lengths& positions, bool with_states) {
  const int64_t rows = sequences(lengths).rows();
  Batch batch = {
      dims, lengths, positions, random_inputs(rows, dims, 7), random_tensor({rows, dims.heads * dims.dv}, 99), {}, {}};
  if (with_states) {
    batch.states = drawn_states(dims, positions, 1000);
    batch.state_gradients = drawn_states(dims, positions, 2000);
  }
  return batch;
}

struct Result {
  Tensor h;
  MlstmTensors d;
  std::vector<State> states, d_states;  // left by the forward; gradients of what it read
};

Result run_backward(const Batch& batch, Isa isa, int threads) {
  Taped t(isa, threads);
  const MlstmTensors in = {t.input(batch.in.q), t.input(batch.in.k), t.input(batch.in.v), t.input(batch.in.i_pre),
                           t.input(batch.in.f_pre)};
  const StateLayout layout = layout_of(batch.dims);
  Result result;
  result.states = batch.states;
  result.d_states = batch.state_gradients;
  Seqs seqs = sequences(batch.lengths);
  seqs.pos = batch.positions;
  StateBatch states, d_states;
  if (!batch.states.empty()) states.bind(layout, pointers(result.states), batch.lengths);
  if (!batch.state_gradients.empty()) d_states.bind(layout, pointers(result.d_states), batch.lengths);
  const Tensor h = run(t.ctx, in, batch.dims, seqs, states.bound() ? states.layer(0) : LayerStates());
  result.h = h.clone();
  t.backward({{h, batch.weights}}, d_states.bound() ? &d_states : nullptr);
  const auto gradient = [&](const Tensor& x) { return t.gradient(x).clone(); };
  result.d = {gradient(in.q), gradient(in.k), gradient(in.v), gradient(in.i_pre), gradient(in.f_pre)};
  if (states.bound()) states.advance(batch.lengths);
  return result;
}

/// The loss in f64, of inputs and states that may be changed between calls.
struct Loss {
  explicit Loss(const Batch& from) : batch(from), in(in_f64(from.in)) {
    for (const State& state : from.states) {
      const NamedTensors tensors = state.tensors(layout_of(from.dims));
      c.push_back(to_f64(tensors[0].tensor));
      n.push_back(to_f64(tensors[1].tensor));
      m.push_back(to_f64(tensors[2].tensor));
    }
  }

  double operator()() const {
    const Seqs seqs = sequences(batch.lengths);
    double loss = 0;
    for (int64_t s = 0; s < seqs.batch(); ++s) {
      for (int64_t head = 0; head < batch.dims.heads; ++head) loss += of_head(seqs, s, head);
    }
    return loss;
  }

  double of_head(const Seqs& seqs, int64_t s, int64_t head) const {
    const MlstmDims& dims = batch.dims;
    const int64_t first = seqs.offsets[static_cast<size_t>(s)], of_c = dims.dk * dims.dv;
    MlstmState64 state = zero_state(dims);
    if (!c.empty()) {
      const auto& [all_c, all_n, all_m] =
          std::tie(c[static_cast<size_t>(s)], n[static_cast<size_t>(s)], m[static_cast<size_t>(s)]);
      state = {{all_c.begin() + head * of_c, all_c.begin() + (head + 1) * of_c},
               {all_n.begin() + head * dims.dk, all_n.begin() + (head + 1) * dims.dk},
               all_m[static_cast<size_t>(head)]};
    }
    const std::vector<double> h = mlstm_rows(in, dims, first, seqs.length(s), head, &state);
    double loss = 0;
    for (size_t i = 0; i < h.size(); ++i) {
      const int64_t row = first + static_cast<int64_t>(i) / dims.dv, j = static_cast<int64_t>(i) % dims.dv;
      loss += double{batch.weights.f32()[(row * dims.heads + head) * dims.dv + j]} * h[i];
    }
    if (batch.state_gradients.empty()) return loss;
    const NamedTensors d = batch.state_gradients[static_cast<size_t>(s)].tensors(layout_of(dims));
    for (int64_t i = 0; i < of_c; ++i) {
      loss += double{d[0].tensor.f32()[head * of_c + i]} * state.c[static_cast<size_t>(i)];
    }
    for (int64_t i = 0; i < dims.dk; ++i) {
      loss += double{d[1].tensor.f32()[head * dims.dk + i]} * state.n[static_cast<size_t>(i)];
    }
    return loss + double{d[2].tensor.f32()[head]} * state.m;
  }

  const Batch& batch;
  MlstmInputs64 in;
  std::vector<std::vector<double>> c, n, m;  // [B] of a sequence's states
};

/// How the gradients of a batch are compared: at so many elements of each input, within a relative L2 distance.
struct Comparison {
  size_t samples = 40;
  double tolerance = 1e-5;
  double q_step = 1e-6;       // of the central differences in q
  double m_tolerance = 1e-5;  // a state's m: one number per head, a sum that cancels and that nothing averages
};

void expect_gradients(const Batch& batch, const Result& result, const Comparison& comparison, std::string_view what) {
  Loss loss(batch);
  const auto error = [&](std::vector<double>& at, const Tensor& d, double step = 1e-6) {
    return gradient_error([&] { return loss(); }, at, d.f32(), comparison.samples, step);
  };
  EXPECT_LT(error(loss.in.q, result.d.q, comparison.q_step), comparison.tolerance) << what;
  EXPECT_LT(error(loss.in.k, result.d.k), comparison.tolerance) << what;
  EXPECT_LT(error(loss.in.v, result.d.v), comparison.tolerance) << what;
  EXPECT_LT(error(loss.in.i_pre, result.d.i_pre), comparison.tolerance) << what;
  EXPECT_LT(error(loss.in.f_pre, result.d.f_pre), comparison.tolerance) << what;
  for (size_t s = 0; s < batch.states.size(); ++s) {
    const NamedTensors d = result.d_states[s].tensors(layout_of(batch.dims));
    EXPECT_LT(error(loss.c[s], d[0].tensor), comparison.tolerance) << what << " sequence " << s;
    EXPECT_LT(error(loss.n[s], d[1].tensor), comparison.tolerance) << what << " sequence " << s;
    EXPECT_LT(error(loss.m[s], d[2].tensor), comparison.m_tolerance) << what << " sequence " << s;
  }
}

const Lengths kLengths = {130, 0, 1, 65, 300, 64};
const Lengths kPositions = {0, 7, 255, 40, 200, 64};

MlstmDims dims_of(int64_t heads, int64_t dk, int64_t dv, float cap, bool scale_keys) {
  MlstmDims dims = {heads, dk, dv, cap, 1e-6f};
  dims.scale_keys = scale_keys;
  return dims;
}

const MlstmDims kShapes[] = {dims_of(1, 1, 1, 0, false), dims_of(2, 5, 3, 0, true), dims_of(1, 17, 33, 15, true),
                             dims_of(2, 16, 20, 15, false)};

void make_positive(const Tensor& x) {
  for (int64_t i = 0; i < x.count(); ++i) x.f32()[i] = std::abs(x.f32()[i]);
}

/// C and n of every state.
void make_positive(const MlstmDims& dims, std::vector<State>* states) {
  const StateLayout layout = layout_of(dims);
  for (State& state : *states) {
    NamedTensors tensors = state.tensors(layout);
    for (size_t i = 0; i < 2; ++i) {
      tensors[i].tensor = tensors[i].tensor.clone();
      make_positive(tensors[i].tensor);
    }
    state = State::from(tensors, state.pos(), layout);
  }
}

// Where q.n of a row nearly cancels, its rounding in f32 is amplified, as in the forward. Positive queries and keys do
// not let it cancel.
TEST(MlstmBackward, AgreesWithCentralDifferences) {
  for (const MlstmDims& dims : kShapes) {
    for (const bool positive : {false, true}) {
      const Batch batch = drawn(dims, kLengths, kPositions, false);
      if (positive) make_positive(batch.in.q), make_positive(batch.in.k);
      for (const Isa isa : tested_isas()) {
        expect_gradients(batch, run_backward(batch, isa, 3), {40, positive ? 1e-6 : 1e-5}, cpu::isa_name(isa));
      }
    }
  }
}

// The same with states, whose C and n are positive too where queries and keys are.
TEST(MlstmBackward, StatesHaveGradients) {
  for (const MlstmDims& dims : {dims_of(2, 5, 3, 0, true), dims_of(1, 17, 21, 15, false)}) {
    for (const bool positive : {false, true}) {
      Batch batch = drawn(dims, kLengths, kPositions, true);
      if (positive) {
        make_positive(batch.in.q), make_positive(batch.in.k);
        make_positive(dims, &batch.states);
      }
      for (const Isa isa : tested_isas()) {
        expect_gradients(batch, run_backward(batch, isa, 3), {40, positive ? 1e-6 : 1e-5}, cpu::isa_name(isa));
      }
    }
  }
}

// eps is relative to e^m: where m is large eps decides the denominator, and m has a gradient.
TEST(MlstmBackward, EpsHasItsGradient) {
  MlstmDims dims = dims_of(2, 5, 3, 0, false);
  dims.eps = 0.3f;
  const Batch large_eps = drawn(dims, kLengths, kPositions, true);
  dims.eps = 1e-6f;
  const Batch large_m = drawn(dims, kLengths, kPositions, false);
  for (int64_t i = 0; i < large_m.in.i_pre.count(); ++i) large_m.in.i_pre.f32()[i] += 14.0f;
  for (int64_t i = 0; i < large_m.in.q.count(); ++i) large_m.in.q.f32()[i] *= 1e-6f;  // e^-m is seldom below q.n then
  for (const Isa isa : tested_isas()) {
    expect_gradients(large_eps, run_backward(large_eps, isa, 3), {40, 1e-6, 1e-6, 1e-6}, cpu::isa_name(isa));
    expect_gradients(large_m, run_backward(large_m, isa, 3), {40, 1e-6, 1e-12}, cpu::isa_name(isa));
  }
}

bool same_gradients(const Result& a, const Result& b, const MlstmDims& dims) {
  bool same = same_bits(a.d.q, b.d.q) && same_bits(a.d.k, b.d.k) && same_bits(a.d.v, b.d.v) &&
              same_bits(a.d.i_pre, b.d.i_pre) && same_bits(a.d.f_pre, b.d.f_pre);
  for (size_t s = 0; s < a.d_states.size(); ++s) {
    const NamedTensors x = a.d_states[s].tensors(layout_of(dims)), y = b.d_states[s].tensors(layout_of(dims));
    for (size_t i = 0; i < x.size(); ++i) same = same && same_bits(x[i].tensor, y[i].tensor);
  }
  return same;
}

TEST(MlstmBackward, ThreadsChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    for (const MlstmDims& dims : {dims_of(1, 64, 512, 15, false), dims_of(4, 32, 96, 0, true)}) {
      const Batch batch = drawn(dims, kLengths, kPositions, true);
      const Result one = run_backward(batch, isa, 1);
      for (const int threads : {2, 3}) EXPECT_TRUE(same_gradients(one, run_backward(batch, isa, threads), dims));
    }
  }
}

TEST(MlstmBackward, NeighboursChangeNoBit) {
  const MlstmDims dims = dims_of(2, 24, 40, 15, false);
  for (const Isa isa : tested_isas()) {
    const Batch batch = drawn(dims, kLengths, kPositions, true);
    const Result packed = run_backward(batch, isa, 3);
    const Seqs seqs = sequences(kLengths);
    for (size_t s = 0; s < kLengths.size(); ++s) {
      const int64_t begin = seqs.offsets[s], end = seqs.offsets[s + 1];
      if (begin == end) continue;
      const Batch alone = {dims,
                           {kLengths[s]},
                           {kPositions[s]},
                           batch.in.rows(begin, end),
                           batch.weights.rows(begin, end),
                           {batch.states[s]},
                           {batch.state_gradients[s]}};
      const Result result = run_backward(alone, isa, 1);
      const Result part = {packed.h, packed.d.rows(begin, end), {}, {packed.d_states[s]}};
      EXPECT_TRUE(same_gradients(result, part, dims)) << s;
    }
  }
}

TEST(MlstmBackward, TheTapeChangesNoBitOfTheForward) {
  for (const Isa isa : tested_isas()) {
    for (const MlstmDims& dims : {dims_of(1, 64, 512, 15, false), dims_of(4, 32, 96, 0, true)}) {
      const Batch batch = drawn(dims, kLengths, kPositions, true);
      const Result taped = run_backward(batch, isa, 3);
      Machine plain(isa, 3);
      std::vector<State> left = batch.states;
      Seqs seqs = sequences(kLengths);
      seqs.pos = kPositions;
      StateBatch states;
      const StateLayout layout = layout_of(dims);  // outlives the binding
      states.bind(layout, pointers(left), kLengths);
      EXPECT_TRUE(same_bits(run(plain.ctx, batch.in, dims, seqs, states.layer(0)), taped.h));
      for (size_t s = 0; s < left.size(); ++s) {
        const NamedTensors x = left[s].tensors(layout), y = taped.states[s].tensors(layout);
        for (size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(same_bits(x[i].tensor, y[i].tensor));
      }
    }
  }
}

// A sequence in two parts, the second part's gradient of the state it read given to the first.
TEST(MlstmBackward, StatesJoinThePartsOfASequence) {
  const MlstmDims dims = dims_of(2, 24, 40, 15, false);
  for (const Isa isa : tested_isas()) {
    for (const int64_t cut : {int64_t{1}, int64_t{64}, int64_t{150}, int64_t{256}, int64_t{299}}) {
      const Batch whole = drawn(dims, {300}, {0}, true);
      Batch first = whole, second = whole;
      first.lengths = {cut};
      second.lengths = {300 - cut};
      second.positions = {cut};
      first.in = whole.in.rows(0, cut);
      second.in = whole.in.rows(cut, 300);
      first.weights = whole.weights.rows(0, cut);
      second.weights = whole.weights.rows(cut, 300);
      second.states = run_backward(first, isa, 2).states;
      const Result after = run_backward(second, isa, 2);
      first.state_gradients = after.d_states;
      const Result before = run_backward(first, isa, 2), uncut = run_backward(whole, isa, 2);
      const auto near = [](const Tensor& a, const Tensor& b) { EXPECT_LT(relative_error(a.f32(), to_f64(b)), 1e-5); };
      near(joined({before.d.q, after.d.q}), uncut.d.q);
      near(joined({before.d.k, after.d.k}), uncut.d.k);
      near(joined({before.d.v, after.d.v}), uncut.d.v);
      near(joined({before.d.i_pre, after.d.i_pre}), uncut.d.i_pre);
      near(joined({before.d.f_pre, after.d.f_pre}), uncut.d.f_pre);
      const NamedTensors x = before.d_states[0].tensors(layout_of(dims)),
                         y = uncut.d_states[0].tensors(layout_of(dims));
      for (size_t i = 0; i < x.size(); ++i) near(x[i].tensor, y[i].tensor);
    }
  }
}

TEST(MlstmBackward, WhatIsFrozenIsNotWritten) {
  Taped t;
  const MlstmDims dims = dims_of(2, 8, 12, 0, false);
  MlstmTensors in = random_inputs(70, dims, 3);
  run(t.ctx, in, dims, sequences({70}), {});
  EXPECT_EQ(t.tape.nodes(), 0u);
  in.v = t.input(in.v);
  const Tensor h = run(t.ctx, in, dims, sequences({70}), {});
  t.backward({{h, random_tensor(h.shape(), 1)}});
  EXPECT_TRUE(t.gradient(in.v).defined());
}

TEST(MlstmBackward, ExtremeGatesStayFinite) {
  const float extremes[] = {15, -15, 1e4f, -1e4f, 0, -90, 90};
  for (const Isa isa : tested_isas()) {
    for (const float cap : {0.0f, 15.0f}) {
      const Batch batch = drawn(dims_of(1, 4, 6, cap, false), {98}, {0}, true);
      for (int64_t t = 0; t < 98; ++t) {
        batch.in.i_pre.f32()[t] = extremes[t / 2 % 7];
        batch.in.f_pre.f32()[t] = extremes[t / 14 % 7];
      }
      const Result result = run_backward(batch, isa, 1);
      for (const Tensor& d : {result.d.q, result.d.k, result.d.v, result.d.i_pre, result.d.f_pre}) {
        for (int64_t j = 0; j < d.count(); ++j) ASSERT_TRUE(std::isfinite(d.f32()[j])) << j << " cap " << cap;
      }
    }
  }
}

}  // namespace
}  // namespace carousel
