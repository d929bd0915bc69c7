// SPDX-License-Identifier: Apache-2.0
// Gradients of the sLSTM against central differences of its recurrence in f64, with states and their gradients; cuts,
// neighbours, micro-batches and threads; gates so extreme that decays vanish.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/ops/slstm/slstm.h"
#include "tests/isas.h"
#include "tests/ops/bound_states.h"
#include "tests/ops/gradients.h"
#include "tests/ops/slstm/slstm_reference.h"

namespace carousel {
namespace {

using Vector = std::vector<double>;

struct Case {
  ops::SlstmDims dims;
  std::vector<int64_t> lengths;
  float wx_scale = 1.0f;

  int64_t width() const { return dims.heads * dims.dh; }
  int64_t rows() const { return sequences(lengths).rows(); }
  std::vector<Shape> states() const { return std::vector<Shape>(4, Shape{width()}); }
  Tensor wx() const { return random_tensor({rows(), 4 * width()}, 1, wx_scale); }
  Tensor master() const {
    return random_tensor({dims.heads, dims.dh, 4 * dims.dh}, 2,
                         static_cast<float>(0.7 / std::sqrt(static_cast<double>(dims.dh))));
  }
};

struct Inputs {
  Vector wx, recurrent, y, c, n, m;  // states of all sequences, end to end
};

/// sum of weights * y, plus the last states of every sequence times their gradients.
double loss(const Case& c, const Inputs& in, const Tensor& weights, const std::vector<Vector>& d_left) {
  const auto width = static_cast<size_t>(c.width());
  double sum = 0;
  size_t first = 0;
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    const auto own = [&](const Vector& all) {
      return Vector(all.begin() + static_cast<int64_t>(s * width), all.begin() + static_cast<int64_t>((s + 1) * width));
    };
    SlstmState state = {own(in.y), own(in.c), own(in.n), own(in.m)};
    const Vector out = slstm_reference(in.wx.data() + first * 4 * width, c.lengths[s], in.recurrent, c.dims, state);
    for (size_t i = 0; i < out.size(); ++i) sum += double{weights.f32()[first * width + i]} * out[i];
    const Vector* left[] = {&state.y, &state.c, &state.n, &state.m};
    for (size_t i = 0; i < d_left.size(); ++i) {
      for (size_t j = 0; j < width; ++j) sum += d_left[i][s * width + j] * (*left[i])[j];
    }
    first += static_cast<size_t>(c.lengths[s]);
  }
  return sum;
}

struct Gradients {
  Tensor out, d_wx;
  std::shared_ptr<std::vector<float>> d_recurrent;
};

Gradients run(Taped& t, const Case& c, const Tensor& master, const Tensor& wx_values, const Tensor& weights,
              const BoundStates* states = nullptr, const BoundStates* d_states = nullptr) {
  Gradients g;
  g.d_recurrent = t.parameter(master);
  const Tensor wx = t.input(wx_values);
  const ops::SlstmRecurrent recurrent = formed(ops::SlstmRecurrent(master, c.dims));
  const Tensor out =
      ops::slstm(t.ctx, wx, recurrent, sequences(c.lengths), states != nullptr ? states->layer() : LayerStates());
  g.out = out.clone();
  t.backward({{out, weights}}, d_states != nullptr ? &d_states->batch : nullptr);
  g.d_wx = t.gradient(wx).clone();
  return g;
}

/// n of a running sequence is positive.
void make_positive(BoundStates& states) {
  for (size_t s = 0; s < states.states.size(); ++s) {
    const Tensor n = states.tensor(s, 2);
    for (int64_t i = 0; i < n.count(); ++i) n.f32()[i] = std::abs(n.f32()[i]) + 0.2f;
  }
}

TEST(SlstmBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (Case c : {Case{{1, 1}, {3, 66}}, Case{{3, 5, 0.3f}, {1, 0, 70, 7, 2, 9}},
                   Case{{2, 16}, {5, 5, 3, 1, 1, 2, 4, 4, 4, 1, 1, 1, 1, 8}}, Case{{2, 33}, {4, 0, 9}},
                   Case{{1, 70}, {6, 2, 3}}}) {
      SCOPED_TRACE(::testing::Message() << cpu::isa_name(isa) << " " << c.dims.heads << "x" << c.dims.dh);
      Taped t(isa);
      const Tensor master = c.master(), values = c.wx(), weights = random_tensor({c.rows(), c.width()}, 3);
      BoundStates states(c.states(), c.lengths, 100, 0.7f), d_states(c.states(), c.lengths, 500);
      make_positive(states);
      Inputs in = {to_f64(values), to_f64(master), states.all(0), states.all(1), states.all(2), states.all(3)};
      std::vector<Vector> d_left;
      for (size_t i = 0; i < 4; ++i) d_left.push_back(d_states.all(i));
      const Gradients g = run(t, c, master, values, weights, &states, &d_states);
      const auto of = [&] { return loss(c, in, weights, d_left); };
      // Up to 70 steps feed the rounding of f32 back; another formula is off by 1e-3.
      EXPECT_LT(gradient_error(of, in.wx, g.d_wx.f32()), 1e-6);
      EXPECT_LT(gradient_error(of, in.recurrent, g.d_recurrent->data()), 1e-6);
      Vector* const before[] = {&in.y, &in.c, &in.n, &in.m};
      for (size_t i = 0; i < 4; ++i) EXPECT_LT(gradient_error(of, *before[i], d_states.all_f32(i).data()), 1e-6) << i;
    }
  }
}

// From the zero state: the rule for n = 0 applies in the first row, and no state is kept.
TEST(SlstmBackward, AFreshSequenceAgreesWithCentralDifferences) {
  const Case c = {{2, 20}, {65, 0, 1, 12}, 2.0f};
  const Tensor master = c.master(), values = c.wx(), weights = random_tensor({c.rows(), c.width()}, 3);
  const Vector zeros(static_cast<size_t>(4 * c.width()));
  Inputs in = {to_f64(values), to_f64(master), zeros, zeros, zeros, zeros};
  for (const Isa isa : tested_isas()) {
    Taped t(isa);
    const Gradients g = run(t, c, master, values, weights);
    const auto of = [&] { return loss(c, in, weights, {}); };
    EXPECT_LT(gradient_error(of, in.wx, g.d_wx.f32()), 1e-6);
    EXPECT_LT(gradient_error(of, in.recurrent, g.d_recurrent->data()), 1e-6);
  }
}

TEST(SlstmBackward, ThreadsChangeNoBitAndTheForwardKeepsIts) {
  for (const Case& c :
       {Case{{3, 24}, {70, 0, 13, 70, 1, 2, 3, 4}}, Case{{1, 72}, {40}}, Case{{1, 40}, {9, 0, 31, 31, 2}}}) {
    const Tensor master = c.master(), values = c.wx(), weights = random_tensor({c.rows(), c.width()}, 3);
    for (const Isa isa : tested_isas()) {
      Machine plain(isa);
      Taped one(isa, 1);
      const Gradients alone = run(one, c, master, values, weights);
      EXPECT_TRUE(same_bits(alone.out, ops::slstm(plain.ctx, values, formed(ops::SlstmRecurrent(master, c.dims)),
                                                  sequences(c.lengths), {})));
      for (const int threads : {2, 3, 5}) {
        Taped many(isa, threads);
        const Gradients g = run(many, c, master, values, weights);
        EXPECT_TRUE(same_bits(g.out, alone.out));
        EXPECT_TRUE(same_bits(g.d_wx, alone.d_wx));
        EXPECT_EQ(*g.d_recurrent, *alone.d_recurrent);
      }
    }
  }
}

TEST(SlstmBackward, ASequenceAloneIsAsAmongOthersAndMicroBatchesAdd) {
  const Case c = {{2, 24}, {5, 70, 3}}, middle = {{2, 24}, {70}}, front = {{2, 24}, {5}}, back = {{2, 24}, {70, 3}};
  const Tensor master = c.master(), values = c.wx(), weights = random_tensor({78, 48}, 3);
  Tensor only = weights.clone();
  for (int64_t i = 0; i < 78 * 48; ++i) {
    if (i < 5 * 48 || i >= 75 * 48) only.f32()[i] = 0;
  }
  Taped among, alone, whole, first, second;
  const Gradients packed = run(among, c, master, values, only);
  const Gradients single = run(alone, middle, master, values.rows(5, 75), weights.rows(5, 75));
  EXPECT_TRUE(same_bits(packed.d_wx.rows(5, 75).clone(), single.d_wx));
  EXPECT_EQ(*packed.d_recurrent, *single.d_recurrent);

  const Gradients all = run(whole, c, master, values, weights);
  const Gradients begun = run(first, front, master, values.rows(0, 5), weights.rows(0, 5));
  second.trained.add(master, begun.d_recurrent->data());
  const Tensor wx = second.input(values.rows(5, 78));
  const Tensor out = ops::slstm(second.ctx, wx, formed(ops::SlstmRecurrent(master, c.dims)), sequences({70, 3}), {});
  second.backward({{out, weights.rows(5, 78)}});
  EXPECT_EQ(*begun.d_recurrent, *all.d_recurrent);
}

TEST(SlstmBackward, ACutSequenceWithItsStateGradientIsAsTheWhole) {
  const Case c = {{2, 24}, {70}};
  const Tensor master = c.master(), values = c.wx(), weights = random_tensor({70, 48}, 3);
  Taped whole;
  const Gradients all = run(whole, c, master, values, weights);
  const ops::SlstmRecurrent recurrent = formed(ops::SlstmRecurrent(master, c.dims));
  for (const int64_t at : {1, 33, 69}) {
    BoundStates states(c.states(), {70}, 1, 0.0f), d_states(c.states(), {70}, 1, 0.0f);
    Taped first, second;
    const auto d_first = first.parameter(master), d_second = second.parameter(master);
    const Tensor a = first.input(values.rows(0, at)), b = second.input(values.rows(at, 70));
    const Tensor out_a = ops::slstm(first.ctx, a, recurrent, sequences({at}), states.layer());
    const Tensor out_b = ops::slstm(second.ctx, b, recurrent, sequences({70 - at}), states.layer());
    second.backward({{out_b, weights.rows(at, 70)}}, &d_states.batch);
    first.backward({{out_a, weights.rows(0, at)}}, &d_states.batch);
    EXPECT_LT(relative_error(joined({first.gradient(a), second.gradient(b)}).f32(), to_f64(all.d_wx)), 1e-5);
    Vector sum;
    for (size_t i = 0; i < d_first->size(); ++i) sum.push_back(double{(*d_first)[i]} + double{(*d_second)[i]});
    EXPECT_LT(relative_error(all.d_recurrent->data(), sum), 1e-5);
  }
}

// A loss of outputs alone does not depend on the scale of m: the gradients stay finite and right where gates are far
// from each other.
TEST(SlstmBackward, ExtremeGatesGiveFiniteGradients) {
  const Case c = {{1, 8}, {50}};
  const Tensor master = c.master(), weights = random_tensor({50, 8}, 3);
  for (const float i_pre : {-1e4f, -200.0f, 200.0f, 1e4f}) {
    for (const float f_pre : {-1e4f, 0.0f, 1e4f}) {
      Tensor values = c.wx();
      for (int64_t t = 0; t < 50; ++t) {
        for (int64_t j = 0; j < 8; ++j) {
          values.f32()[t * 32 + j] += t % 3 == 0 ? i_pre : 0.0f;
          values.f32()[t * 32 + 8 + j] += f_pre;
        }
      }
      Taped t;
      const Gradients g = run(t, c, master, values, weights);
      for (int64_t i = 0; i < g.d_wx.count(); ++i) ASSERT_TRUE(std::isfinite(g.d_wx.f32()[i])) << i_pre << " " << f_pre;
    }
  }
}

// A frozen form has dropped its master; the gradient of wx still needs the matrices.
TEST(SlstmBackward, FrozenMatricesStillCarryGradients) {
  const Case c = {{2, 24}, {9, 4}};
  const Tensor master = c.master(), values = c.wx(), weights = random_tensor({13, 48}, 3);
  Taped trained, frozen;
  const Gradients g = run(trained, c, master, values, weights);
  ops::SlstmRecurrent recurrent = formed(ops::SlstmRecurrent(master, c.dims));
  recurrent.release();
  const Tensor wx = frozen.input(values);
  const Tensor out = ops::slstm(frozen.ctx, wx, recurrent, sequences(c.lengths), {});
  frozen.backward({{out, weights}});
  EXPECT_TRUE(same_bits(frozen.gradient(wx), g.d_wx));
}

}  // namespace
}  // namespace carousel
