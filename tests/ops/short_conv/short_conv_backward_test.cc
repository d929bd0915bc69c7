// SPDX-License-Identifier: Apache-2.0
// Gradients of both short convolutions against central differences of their formula in f64; cuts, neighbours,
// micro-batches and threads.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/short_conv/short_conv.h"
#include "tests/isas.h"
#include "tests/ops/bound_states.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using Vector = std::vector<double>;

struct Case {
  int64_t width, taps;
  bool gated, bias;
  std::vector<int64_t> lengths = {70, 0, 1, 2, 33};

  int64_t kept() const { return gated ? taps - 1 : taps; }
  int64_t columns() const { return (gated ? 3 : 1) * width; }
};

/// The inputs of a convolution in f64, for all sequences.
struct Inputs {
  Vector x, taps, bias, state;
};

/// Results of all rows, then the states left, of all sequences: [N, D] and [B, kept, D].
std::pair<Vector, Vector> reference(const Case& c, const Inputs& in) {
  const auto at = [](const Vector& v, int64_t i) { return v[static_cast<size_t>(i)]; };
  Vector out, left;
  int64_t first = 0;
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    const int64_t before = static_cast<int64_t>(s) * c.kept();
    const auto u = [&](int64_t t, int64_t j) {
      if (t < 0) return t < -c.kept() ? 0.0 : at(in.state, (before + c.kept() + t) * c.width + j);
      const int64_t row = (first + t) * c.columns();
      return c.gated ? at(in.x, row + j) * at(in.x, row + 2 * c.width + j) : at(in.x, row + j);
    };
    for (int64_t t = 0; t < c.lengths[s]; ++t) {
      for (int64_t j = 0; j < c.width; ++j) {
        double sum = c.bias ? at(in.bias, j) : 0.0;
        for (int64_t k = 0; k < c.taps; ++k) sum += at(in.taps, j * c.taps + k) * u(t - (c.taps - 1) + k, j);
        out.push_back(c.gated ? sum * at(in.x, (first + t) * c.columns() + c.width + j) : sum / (1 + std::exp(-sum)));
      }
    }
    for (int64_t i = 0; i < c.kept(); ++i) {
      for (int64_t j = 0; j < c.width; ++j) left.push_back(u(c.lengths[s] - c.kept() + i, j));
    }
    first += c.lengths[s];
  }
  return {out, left};
}

struct Masters {
  explicit Masters(const Case& c)
      : weight(random_tensor({c.width, 1, c.taps}, 51)),
        bias(c.bias ? random_tensor({c.width}, 52) : Tensor()),
        taps(formed(ops::ConvTaps(weight, bias))) {}
  Tensor weight, bias;
  ops::ConvTaps taps;
};

/// The gradients of one run.
struct Gradients {
  Tensor out, d_x;
  std::shared_ptr<std::vector<float>> d_taps, d_bias;
};

/// Columns 2 and on of a wider tensor are the input of an ungated convolution. `into` may hold gradients already.
Gradients run(Taped& t, const Case& c, const Masters& masters, const Tensor& values, const Tensor& weights,
              BoundStates* states, BoundStates* d_states) {
  Gradients g;
  if (c.taps > 0) g.d_taps = t.parameter(masters.weight);
  if (c.bias) g.d_bias = t.parameter(masters.bias);
  const Tensor x = t.input(values);
  const LayerStates layer = states != nullptr ? states->layer() : LayerStates();
  const Seqs seqs = sequences(c.lengths);
  const Tensor out = c.gated ? ops::short_conv(t.ctx, x, masters.taps, seqs, layer)
                             : ops::silu_conv(t.ctx, columns(x, 2, c.width), masters.taps, seqs, layer);
  g.out = out.clone();
  t.backward({{out, weights}}, d_states != nullptr ? &d_states->batch : nullptr);
  g.d_x = t.gradient(x).clone();
  return g;
}

Tensor input_of(const Case& c, uint64_t seed) {
  return random_tensor({sequences(c.lengths).rows(), c.gated ? 3 * c.width : c.width + 2}, seed);
}

/// The columns of `x` that the convolution reads, in f64.
Vector read_columns(const Case& c, const float* x, int64_t rows) {
  Vector out;
  const int64_t first = c.gated ? 0 : 2, stride = c.columns() + first;
  for (int64_t n = 0; n < rows; ++n) out.insert(out.end(), x + n * stride + first, x + (n + 1) * stride);
  return out;
}

void expect_gradients(const Case& c, Isa isa) {
  Taped t(isa);
  const Masters masters(c);
  const int64_t rows = sequences(c.lengths).rows();
  const Tensor values = input_of(c, 1), weights = random_tensor({rows, c.width}, 2);
  const std::vector<Shape> shapes = {{c.kept(), c.width}};
  const bool stateful = c.kept() > 0;
  BoundStates states(stateful ? shapes : std::vector<Shape>{{1}}, c.lengths, 100);
  BoundStates d_states(stateful ? shapes : std::vector<Shape>{{1}}, c.lengths, 200);
  Inputs in = {read_columns(c, values.f32(), rows), to_f64(masters.weight), {}, states.all(0)};
  if (c.bias) in.bias = to_f64(masters.bias);
  const Vector d_left = d_states.all(0);
  const Gradients g = run(t, c, masters, values, weights, stateful ? &states : nullptr, stateful ? &d_states : nullptr);
  const auto loss = [&] {
    const auto [out, left] = reference(c, in);
    double sum = weighted_sum(weights, out);
    for (size_t i = 0; i < left.size(); ++i) sum += d_left[i] * left[i];
    return sum;
  };
  const Vector d_x = read_columns(c, g.d_x.f32(), rows);
  const std::vector<float> d_read(d_x.begin(), d_x.end());
  EXPECT_LT(gradient_error(loss, in.x, d_read.data()), 1e-6);
  // One channel with one tap is a single f32 sum of 106 terms that nearly cancel: nothing averages its rounding.
  EXPECT_LT(gradient_error(loss, in.taps, g.d_taps->data()), c.width * c.taps == 1 ? 4e-6 : 1e-6);
  if (c.bias) {
    EXPECT_LT(gradient_error(loss, in.bias, g.d_bias->data()), 1e-6);
  }
  if (stateful) {
    EXPECT_LT(gradient_error(loss, in.state, d_states.all_f32(0).data()), 1e-6);
  }
}

TEST(ShortConvBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const bool gated : {true, false}) {
      for (const int64_t width : {1, 19, 48}) {
        for (const int64_t taps : {1, 2, 4, 5}) {
          SCOPED_TRACE(::testing::Message() << cpu::isa_name(isa) << " " << gated << " " << width << "x" << taps);
          expect_gradients({width, taps, gated, taps != 2}, isa);
        }
      }
    }
  }
}

TEST(ShortConvBackward, ThreadsChangeNoBitAndTheForwardKeepsIts) {
  for (const bool gated : {true, false}) {
    const Case c = {600, 4, gated, true, {90, 0, 30, 1, 200}};
    const Masters masters(c);
    const Tensor values = input_of(c, 1), weights = random_tensor({321, 600}, 2);
    Machine plain;
    const Tensor expected =
        gated ? ops::short_conv(plain.ctx, values, masters.taps, sequences(c.lengths), {})
              : ops::silu_conv(plain.ctx, columns(values, 2, 600), masters.taps, sequences(c.lengths), {});
    Taped one(cpu::best_isa(), 1);
    const Gradients alone = run(one, c, masters, values, weights, nullptr, nullptr);
    EXPECT_TRUE(same_bits(alone.out, expected));
    for (const int threads : {2, 3}) {
      Taped many(cpu::best_isa(), threads);
      const Gradients g = run(many, c, masters, values, weights, nullptr, nullptr);
      EXPECT_TRUE(same_bits(g.d_x, alone.d_x));
      EXPECT_EQ(*g.d_taps, *alone.d_taps);
      EXPECT_EQ(*g.d_bias, *alone.d_bias);
    }
  }
}

/// Sequences [begin, end) of a case.
Case part_of(const Case& c, size_t begin, size_t end) {
  Case part = c;
  part.lengths.assign(c.lengths.begin() + static_cast<int64_t>(begin), c.lengths.begin() + static_cast<int64_t>(end));
  return part;
}

TEST(ShortConvBackward, ASequenceAloneIsAsAmongOthersAndMicroBatchesAdd) {
  for (const bool gated : {true, false}) {
    const Case c = {37, 4, gated, true, {5, 70, 3}};
    const Masters masters(c);
    const Tensor values = input_of(c, 1), weights = random_tensor({78, 37}, 2);
    Tensor only = weights.clone();  // the loss is the second sequence's
    for (int64_t n = 0; n < 78; ++n) {
      for (int64_t j = 0; j < 37 && (n < 5 || n >= 75); ++j) only.f32()[n * 37 + j] = 0;
    }
    Taped among, alone, whole, cut;
    const Gradients packed = run(among, c, masters, values, only, nullptr, nullptr);
    const Gradients single =
        run(alone, part_of(c, 1, 2), masters, values.rows(5, 75), weights.rows(5, 75), nullptr, nullptr);
    EXPECT_TRUE(same_bits(packed.d_x.rows(5, 75).clone(), single.d_x));
    EXPECT_EQ(*packed.d_taps, *single.d_taps);
    EXPECT_EQ(*packed.d_bias, *single.d_bias);

    const Gradients all = run(whole, c, masters, values, weights, nullptr, nullptr);
    const Gradients first =
        run(cut, part_of(c, 0, 1), masters, values.rows(0, 5), weights.rows(0, 5), nullptr, nullptr);
    Taped second;
    second.trained.add(masters.weight, first.d_taps->data());
    second.trained.add(masters.bias, first.d_bias->data());
    const Tensor x = second.input(values.rows(5, 78));
    const Seqs seqs = sequences({70, 3});
    const Tensor out = gated ? ops::short_conv(second.ctx, x, masters.taps, seqs, {})
                             : ops::silu_conv(second.ctx, columns(x, 2, 37), masters.taps, seqs, {});
    second.backward({{out, weights.rows(5, 78)}});
    EXPECT_EQ(*first.d_taps, *all.d_taps);
    EXPECT_EQ(*first.d_bias, *all.d_bias);
  }
}

TEST(ShortConvBackward, ACutSequenceWithItsStateGradientIsAsTheWhole) {
  for (const bool gated : {true, false}) {
    const Case c = {37, 4, gated, true, {40}};
    const Masters masters(c);
    const Tensor values = input_of(c, 1), weights = random_tensor({40, 37}, 2);
    const std::vector<Shape> shapes = {{c.kept(), c.width}};
    Taped whole;
    const Gradients all = run(whole, c, masters, values, weights, nullptr, nullptr);
    for (const int64_t at : {1, 2, 17, 39}) {  // also pieces shorter than the state
      BoundStates states(shapes, {40}, 1, 0.0f), d_states(shapes, {40}, 1, 0.0f);
      Case front = c, back = c;
      front.lengths = {at};
      back.lengths = {40 - at};
      Taped first, second;
      const Tensor x = first.input(values.rows(0, at)), y = second.input(values.rows(at, 40));
      const auto d_first = first.parameter(masters.weight), d_second = second.parameter(masters.weight);
      const auto forward = [&](Taped& t, const Tensor& in, int64_t rows) {
        return gated ? ops::short_conv(t.ctx, in, masters.taps, sequences({rows}), states.layer())
                     : ops::silu_conv(t.ctx, columns(in, 2, 37), masters.taps, sequences({rows}), states.layer());
      };
      const Tensor out_first = forward(first, x, at), out_second = forward(second, y, 40 - at);
      second.backward({{out_second, weights.rows(at, 40)}}, &d_states.batch);
      first.backward({{out_first, weights.rows(0, at)}}, &d_states.batch);
      EXPECT_LT(relative_error(joined({first.gradient(x), second.gradient(y)}).f32(), to_f64(all.d_x)), 1e-6);
      Vector sum;
      for (size_t i = 0; i < d_first->size(); ++i) sum.push_back(double{(*d_first)[i]} + double{(*d_second)[i]});
      EXPECT_LT(relative_error(all.d_taps->data(), sum), 1e-6);
    }
  }
}

}  // namespace
}  // namespace carousel
