// SPDX-License-Identifier: Apache-2.0
// Gradients of ops::block_linear against central differences in f64 and, over more rows, against the sums of their
// formula; and the promises of sums over rows: threads, cuts of the batch and rows without gradient change no bit.
#include <gtest/gtest.h>

#include <vector>

#include "carousel/ops/linear/block_linear.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

struct Shapes {
  int64_t blocks, size;
};
constexpr Shapes kShapes[] = {{1, 1}, {37, 1}, {70, 4}, {5, 3}, {16, 8}, {2, 31}, {1, 32}, {3, 33}, {2, 131}};
constexpr size_t kParts = 3;

/// Two parts that read the same columns and one that reads another tensor; one has no bias, the others' lie between
/// each other.
struct Projections {
  Projections(Taped& t, const Shapes& shapes, bool trained = true) : blocks(shapes.blocks), size(shapes.size) {
    bias = random_tensor({blocks * 2 * size}, 50);
    for (size_t p = 0; p < kParts; ++p) {
      masters.push_back(random_tensor({blocks, size, size}, 10 + p));
      const auto index = static_cast<int64_t>(p);
      const ops::BlockBias between = {bias, index * size, 2 * size};
      weights.push_back(formed(ops::BlockWeight(masters.back(), p < 2 ? between : ops::BlockBias())));
      if (trained) d_weights.push_back(t.parameter(masters.back()));
      if (!trained) weights.back().release();
    }
    if (trained) d_bias = t.parameter(bias);
  }
  int64_t width() const { return blocks * size; }
  /// x [N, width + 3], other [N, width].
  Tensor forward(Ctx& ctx, const Tensor& x, const Tensor& other) const {
    const Columns own = columns(x, 2, width());
    return ops::block_linear(ctx, {{own, &weights[0]}, {own, &weights[1]}, {columns(other), &weights[2]}});
  }

  int64_t blocks, size;
  Tensor bias;
  std::vector<Tensor> masters;
  std::vector<ops::BlockWeight> weights;
  std::vector<std::shared_ptr<std::vector<float>>> d_weights;
  std::shared_ptr<std::vector<float>> d_bias;
};

struct Sums {
  std::vector<double> x, other, bias, weights[kParts];
};

Sums sums(const Projections& p, const Tensor& x, const Tensor& other, const Tensor& d) {
  const int64_t rows = x.dim(0), width = p.width(), size = p.size;
  Sums out;
  out.x.resize(static_cast<size_t>(x.count()));
  out.other.resize(static_cast<size_t>(other.count()));
  out.bias.resize(static_cast<size_t>(p.bias.count()));
  for (size_t part = 0; part < kParts; ++part) {
    out.weights[part].resize(static_cast<size_t>(width * size));
    const Tensor& from = part < 2 ? x : other;
    std::vector<double>& d_from = part < 2 ? out.x : out.other;
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t block = j / size;
        const double d_nj = double{d.f32()[(n * int64_t{kParts} + static_cast<int64_t>(part)) * width + j]};
        if (part < 2) {
          out.bias[static_cast<size_t>((block * 2 + static_cast<int64_t>(part)) * size + j % size)] += d_nj;
        }
        for (int64_t i = 0; i < size; ++i) {
          const int64_t at = n * from.dim(1) + (part < 2 ? 2 : 0) + block * size + i;
          out.weights[part][static_cast<size_t>(j * size + i)] += d_nj * double{from.f32()[at]};
          d_from[static_cast<size_t>(at)] += d_nj * double{p.masters[part].f32()[j * size + i]};
        }
      }
    }
  }
  return out;
}

/// The gradients of `rows` drawn rows.
struct Backward {
  Backward(Isa isa, const Shapes& shapes, int64_t rows)
      : t(isa),
        p(t, shapes),
        x(t.input(random_tensor({rows, p.width() + 3}, 1))),
        other(t.input(random_tensor({rows, p.width()}, 2))) {
    const Tensor y = p.forward(t.ctx, x, other);
    d = random_tensor(y.shape(), 3);
    t.backward({{y, d}});
  }
  Taped t;
  Projections p;
  Tensor x, other, d;
};

// Chains of up to 300 products in f32, against f64. A weight of one number is one such chain, and may be small beside
// its terms: weights have twice the bound.
TEST(BlockLinearBackward, HasTheSumsOfTheFormula) {
  for (const Isa isa : tested_isas()) {
    for (const Shapes& shapes : kShapes) {
      for (const int64_t rows : {1, 5, 131, 300}) {
        Backward ran(isa, shapes, rows);
        Taped& t = ran.t;
        const Projections& p = ran.p;
        const Tensor &x = ran.x, &other = ran.other, &d = ran.d;
        const Sums want = sums(p, x, other, d);
        EXPECT_LT(relative_error(t.gradient(x).f32(), want.x), 1e-6) << shapes.blocks << " of " << shapes.size;
        EXPECT_LT(relative_error(t.gradient(other).f32(), want.other), 1e-6) << shapes.blocks << " of " << shapes.size;
        EXPECT_LT(relative_error(p.d_bias->data(), want.bias), 1e-6) << shapes.blocks << " of " << shapes.size;
        for (size_t part = 0; part < kParts; ++part) {
          EXPECT_LT(relative_error(p.d_weights[part]->data(), want.weights[part]), 2e-6)
              << shapes.blocks << " of " << shapes.size << ", " << rows << " rows";
        }
      }
    }
  }
}

/// What the loss reads, in f64.
struct Values {
  std::vector<double> x, other, bias, weights[kParts];
};

double loss_of(const Projections& p, const Values& in, const Tensor& d, int64_t rows) {
  const int64_t width = p.width(), size = p.size;
  double loss = 0;
  for (int64_t n = 0; n < rows; ++n) {
    for (size_t part = 0; part < kParts; ++part) {
      const double* x_n =
          part < 2 ? &in.x[static_cast<size_t>(n * (width + 3) + 2)] : &in.other[static_cast<size_t>(n * width)];
      for (int64_t j = 0; j < width; ++j) {
        const int64_t block = j / size, index = static_cast<int64_t>(part);
        double y = part < 2 ? in.bias[static_cast<size_t>((block * 2 + index) * size + j % size)] : 0;
        for (int64_t i = 0; i < size; ++i) {
          y += in.weights[part][static_cast<size_t>(j * size + i)] * x_n[block * size + i];
        }
        loss += double{d.f32()[(n * int64_t{kParts} + index) * width + j]} * y;
      }
    }
  }
  return loss;
}

TEST(BlockLinearBackward, AgreesWithCentralDifferences) {
  const int64_t rows = 70;
  for (const Isa isa : tested_isas()) {
    for (const Shapes& shapes : {Shapes{20, 4}, {5, 3}, {2, 33}}) {
      Backward ran(isa, shapes, rows);
      Taped& t = ran.t;
      const Projections& p = ran.p;
      const Tensor &x = ran.x, &other = ran.other, &d = ran.d;
      Values in = {to_f64(x), to_f64(other), to_f64(p.bias), {}};
      for (size_t part = 0; part < kParts; ++part) in.weights[part] = to_f64(p.masters[part]);
      const auto loss = [&] { return loss_of(p, in, d, rows); };
      EXPECT_LT(gradient_error(loss, in.x, t.gradient(x).f32(), 40), 1e-6) << shapes.size;
      EXPECT_LT(gradient_error(loss, in.other, t.gradient(other).f32(), 40), 1e-6) << shapes.size;
      EXPECT_LT(gradient_error(loss, in.bias, p.d_bias->data(), 40), 1e-6) << shapes.size;
      for (size_t part = 0; part < kParts; ++part) {
        EXPECT_LT(gradient_error(loss, in.weights[part], p.d_weights[part]->data(), 40), 1e-6) << shapes.size;
      }
    }
  }
}

struct Result {
  Tensor y, d_x, d_other;
  std::vector<std::vector<float>> d_parameters;
};

/// Forward and backward over rows that end at `cuts`, one batch after the other.
Result run(const Shapes& shapes, Isa isa, int threads, const Tensor& d, const std::vector<int64_t>& cuts) {
  Taped t(isa, threads);
  const Projections p(t, shapes);
  const int64_t rows = d.dim(0);
  const Tensor x = random_tensor({rows, p.width() + 3}, 1), other = random_tensor({rows, p.width()}, 2);
  std::vector<Tensor> y, d_x, d_other;
  int64_t begin = 0;
  for (const int64_t cut : cuts) {
    const Tensor own = t.input(x.rows(begin, cut)), own_other = t.input(other.rows(begin, cut));
    y.push_back(p.forward(t.ctx, own, own_other));
    t.backward({{y.back(), d.rows(begin, cut)}});
    d_x.push_back(t.gradient(own));
    d_other.push_back(t.gradient(own_other));
    begin = cut;
  }
  Result result = {joined(y), joined(d_x), joined(d_other), {*p.d_bias}};
  for (const auto& d_weight : p.d_weights) result.d_parameters.push_back(*d_weight);
  return result;
}

bool same(const Result& a, const Result& b) {
  bool all = same_bits(a.y, b.y) && same_bits(a.d_x, b.d_x) && same_bits(a.d_other, b.d_other);
  for (size_t i = 0; i < a.d_parameters.size(); ++i) {
    all = all &&
          same_bits(a.d_parameters[i].data(), b.d_parameters[i].data(), static_cast<int64_t>(a.d_parameters[i].size()));
  }
  return all;
}

TEST(BlockLinearBackward, ThreadsAndCutsChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    for (const Shapes& shapes : kShapes) {
      const Tensor d = random_tensor({300, int64_t{kParts} * shapes.blocks * shapes.size}, 4);
      const Result one = run(shapes, isa, 1, d, {300});
      for (const int threads : {2, 3}) EXPECT_TRUE(same(one, run(shapes, isa, threads, d, {300})));
      EXPECT_TRUE(same(one, run(shapes, isa, 2, d, {1, 130, 131, 300}))) << shapes.blocks << " of " << shapes.size;
    }
  }
}

TEST(BlockLinearBackward, RowsWithoutGradientChangeNoBitOfTheParameters) {
  for (const Isa isa : tested_isas()) {
    for (const Shapes& shapes : kShapes) {
      const Tensor d = random_tensor({300, int64_t{kParts} * shapes.blocks * shapes.size}, 4);
      for (int64_t i = 0; i < d.rows(0, 150).count(); ++i) d.f32()[i] = 0;
      const Tensor none({150, d.dim(1)}, DType::kF32);
      Taped t(isa);
      const Projections p(t, shapes);
      const Tensor x = random_tensor({300, p.width() + 3}, 1), other = random_tensor({300, p.width()}, 2);
      const Tensor own = t.input(x.rows(150, 300)), own_other = t.input(other.rows(150, 300));
      t.backward({{p.forward(t.ctx, own, own_other), d.rows(150, 300)}});
      const Result packed = run(shapes, isa, 2, d, {300});
      EXPECT_TRUE(same_bits(t.gradient(own), packed.d_x.rows(150, 300)));
      EXPECT_TRUE(same_bits(p.d_bias->data(), packed.d_parameters[0].data(), p.bias.count()));
      for (size_t part = 0; part < kParts; ++part) {
        EXPECT_TRUE(
            same_bits(p.d_weights[part]->data(), packed.d_parameters[part + 1].data(), p.masters[part].count()));
      }
    }
  }
}

TEST(BlockLinearBackward, FrozenWeightsPassGradientsOn) {
  for (const Isa isa : tested_isas()) {
    for (const Shapes& shapes : kShapes) {
      const Tensor d = random_tensor({70, int64_t{kParts} * shapes.blocks * shapes.size}, 4);
      const Result trained = run(shapes, isa, 2, d, {70});
      Taped t(isa);
      const Projections p(t, shapes, false);
      const Tensor x = random_tensor({70, p.width() + 3}, 1), other = random_tensor({70, p.width()}, 2);
      EXPECT_TRUE(same_bits(p.forward(t.ctx, x, other), trained.y));
      EXPECT_EQ(t.tape.nodes(), 0u);
      const Tensor own = t.input(x);
      const Tensor y = p.forward(t.ctx, own, other);
      t.backward({{y, d}});
      EXPECT_TRUE(same_bits(t.gradient(own), trained.d_x));
    }
  }
}

}  // namespace
}  // namespace carousel
