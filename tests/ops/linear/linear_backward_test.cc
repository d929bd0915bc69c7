// SPDX-License-Identifier: Apache-2.0
// Gradients of ops::linear against central differences in f64 and, over more rows, against the sums of their formula;
// and the promises of sums over rows: threads, cuts of the batch and rows without gradient change no bit.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

constexpr int64_t kK = 75;
constexpr int64_t kHeights[] = {70, 1, 33, 6};
constexpr int64_t kOutputs = 110;  // of all

struct Projections {
  explicit Projections(Taped& t, DType dtype = DType::kF32) {
    if (dtype == DType::kBF16) t.stream.compute = Compute::kBF16;
    uint64_t seed = 1;
    for (const int64_t M : kHeights) {
      masters.push_back(random_tensor({M, kK}, seed++));
      weights.push_back(Weight::of_master(t.stream, masters.back(), Weight::Layout::kPanels));
      weights.back().bias = random_tensor({M}, seed++);
      d_w.push_back(t.parameter(masters.back()));
      d_b.push_back(t.parameter(weights.back().bias));
    }
  }
  Tensor forward(Ctx& ctx, const Tensor& x) const {
    return ops::linear(ctx, x, {&weights[0], &weights[1], &weights[2], &weights[3]});
  }
  std::vector<Tensor> masters;
  std::vector<Weight> weights;
  std::vector<std::shared_ptr<std::vector<float>>> d_w, d_b;
};

TEST(LinearBackward, HasTheSumsOfTheFormula) {
  for (const Isa isa : tested_isas()) {
    for (const int64_t N : {1, 2, 63, 131, 1500}) {
      Taped t(isa);
      const Projections p(t);
      const Tensor values = random_tensor({N, kK}, 90), x = t.input(values);
      const Tensor y = p.forward(t.ctx, x), d = random_tensor(y.shape(), 91);
      t.backward({{y, d}});
      const Tensor d_x = t.gradient(x);
      std::vector<double> want_x(static_cast<size_t>(N * kK));
      int64_t first = 0;
      for (size_t w = 0; w < p.weights.size(); ++w) {
        const int64_t M = kHeights[w];
        std::vector<double> want_w(static_cast<size_t>(M * kK)), want_b(static_cast<size_t>(M));
        double summed = 0;  // of magnitudes: one sum may cancel
        for (int64_t n = 0; n < N; ++n) {
          for (int64_t m = 0; m < M; ++m) {
            const double d_nm = double{d.f32()[n * y.dim(1) + first + m]};
            want_b[static_cast<size_t>(m)] += d_nm;
            summed += std::abs(d_nm);
            for (int64_t k = 0; k < kK; ++k) {
              want_w[static_cast<size_t>(m * kK + k)] += d_nm * double{values.f32()[n * kK + k]};
              want_x[static_cast<size_t>(n * kK + k)] += d_nm * double{p.masters[w].f32()[m * kK + k]};
            }
          }
        }
        EXPECT_LT(relative_error(p.d_w[w]->data(), want_w), 1e-6) << N << " " << w;
        double size = 0;
        for (const double sum : want_b) size += sum * sum;
        EXPECT_LT(relative_error(p.d_b[w]->data(), want_b) * std::sqrt(size), 1e-6 * summed) << N << " " << w;
        first += M;
      }
      EXPECT_LT(relative_error(d_x.f32(), want_x), 1e-6) << N;
    }
  }
}

TEST(LinearBackward, AgreesWithCentralDifferences) {
  constexpr size_t kSamples = 40;
  const int64_t N = 70;
  for (const Isa isa : tested_isas()) {
    Taped t(isa);
    const Projections p(t);
    const Tensor values = random_tensor({N, kK}, 90), x = t.input(values);
    const Tensor y = p.forward(t.ctx, x), d = random_tensor(y.shape(), 91);
    t.backward({{y, d}});
    std::vector<double> x_values = to_f64(values);
    int64_t first = 0;
    for (size_t w = 0; w < p.weights.size(); ++w) {
      const int64_t M = kHeights[w];
      std::vector<double> weight = to_f64(p.masters[w]), bias = to_f64(p.weights[w].bias);
      const auto loss = [&, first] {  // what this matrix adds to it
        double sum = 0;
        for (int64_t n = 0; n < N; ++n) {
          for (int64_t m = 0; m < M; ++m) {
            double y_nm = bias[static_cast<size_t>(m)];
            for (int64_t k = 0; k < kK; ++k) {
              y_nm += weight[static_cast<size_t>(m * kK + k)] * x_values[static_cast<size_t>(n * kK + k)];
            }
            sum += double{d.f32()[n * kOutputs + first + m]} * y_nm;
          }
        }
        return sum;
      };
      EXPECT_LT(gradient_error(loss, weight, p.d_w[w]->data(), kSamples), 1e-6) << w;
      EXPECT_LT(gradient_error(loss, bias, p.d_b[w]->data(), kSamples), 1e-6) << w;
      first += M;
    }
    const Tensor all = joined(p.masters);
    const auto loss = [&] {
      double sum = 0;
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t m = 0; m < kOutputs; ++m) {
          double y_nm = 0;
          for (int64_t k = 0; k < kK; ++k) {
            y_nm += double{all.f32()[m * kK + k]} * x_values[static_cast<size_t>(n * kK + k)];
          }
          sum += double{d.f32()[n * kOutputs + m]} * y_nm;
        }
      }
      return sum;
    };
    EXPECT_LT(gradient_error(loss, x_values, t.gradient(x).f32(), kSamples), 1e-6);
  }
}

struct Gradients {
  std::vector<std::vector<float>> parameters;
  std::vector<float> x;
  bool operator==(const Gradients&) const = default;
};

/// The batch cut after these rows, one part after the other.
Gradients run(int threads, const std::vector<int64_t>& cuts, const Tensor& values, const Tensor& d,
              DType dtype = DType::kF32, Isa isa = cpu::best_isa()) {
  Taped t(isa, threads);
  const Projections p(t, dtype);
  Gradients out;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Tensor x = t.input(values.rows(cuts[i], cuts[i + 1]));
    t.backward({{p.forward(t.ctx, x), d.rows(cuts[i], cuts[i + 1])}});
    const Tensor d_x = t.gradient(x);
    out.x.insert(out.x.end(), d_x.f32(), d_x.f32() + d_x.count());
  }
  for (const auto& gradient : t.gradients) out.parameters.push_back(*gradient);
  return out;
}

TEST(LinearBackward, ThreadsAndCutsChangeNoBit) {
  const Tensor x = random_tensor({2100, kK}, 5), d = random_tensor({2100, kOutputs}, 6);
  const Gradients want = run(1, {0, 2100}, x, d);
  EXPECT_TRUE(run(3, {0, 2100}, x, d) == want);
  EXPECT_TRUE(run(2, {0, 1, 130, 1500, 2100}, x, d) == want);
}

Tensor rounded(const Tensor& values) {
  const Tensor out(values.shape(), DType::kF32);
  for (int64_t i = 0; i < values.count(); ++i) out.f32()[i] = to_float(to_bf16(values.f32()[i]));
  return out;
}

/// d^T x [outputs, K] and d W [N, K] in f64.
struct Sums {
  Sums(const Projections& p, const Tensor& x, const Tensor& d, bool rounds)
      : w(static_cast<size_t>(kOutputs * kK)), x_(static_cast<size_t>(x.count())) {
    std::vector<Tensor> masters;
    for (const Tensor& master : p.masters) masters.push_back(rounds ? rounded(master) : master);
    const Tensor all = joined(masters);
    for (int64_t n = 0; n < x.dim(0); ++n) {
      for (int64_t m = 0; m < kOutputs; ++m) {
        const double d_nm = double{d.f32()[n * kOutputs + m]};
        for (int64_t k = 0; k < kK; ++k) {
          w[static_cast<size_t>(m * kK + k)] += d_nm * double{x.f32()[n * kK + k]};
          x_[static_cast<size_t>(n * kK + k)] += d_nm * double{all.f32()[m * kK + k]};
        }
      }
    }
  }
  std::vector<double> w, x_;
};

// Factors are rounded to bf16, nothing else is: the sums are those of rounded factors to the error of f32, and those of
// the factors themselves to 2^-8, twice the most that one factor is off.
TEST(LinearBackward, InBF16FactorsAloneAreRounded) {
  for (const Isa isa : tested_isas()) {
    for (const int64_t N : {1, 2, 63, 131, 1501}) {
      Taped t(isa);
      const Projections p(t, DType::kBF16);
      const Tensor values = random_tensor({N, kK}, 90), x = t.input(values), y = p.forward(t.ctx, x);
      const Tensor d = random_tensor(y.shape(), 91);
      t.backward({{y, d}});
      const Tensor d_x = t.gradient(x);
      std::vector<float> d_w;
      for (const auto& gradient : p.d_w) d_w.insert(d_w.end(), gradient->begin(), gradient->end());
      const Sums of_rounded(p, rounded(values), rounded(d), true), exact(p, values, d, false);
      EXPECT_LT(relative_error(d_w.data(), of_rounded.w), 1e-6) << N;
      EXPECT_LT(relative_error(d_x.f32(), of_rounded.x_), 1e-6) << N;
      EXPECT_LT(relative_error(d_w.data(), exact.w), 0x1p-8) << N;
      EXPECT_LT(relative_error(d_x.f32(), exact.x_), 0x1p-8) << N;
    }
  }
}

TEST(LinearBackward, InBF16ThreadsAndCutsChangeNoBit) {
  const Tensor x = random_tensor({2100, kK}, 5), d = random_tensor({2100, kOutputs}, 6);
  for (const Isa isa : tested_isas()) {
    const Gradients want = run(1, {0, 2100}, x, d, DType::kBF16, isa);
    EXPECT_TRUE(run(3, {0, 2100}, x, d, DType::kBF16, isa) == want);
    EXPECT_TRUE(run(2, {0, 1, 130, 1501, 2100}, x, d, DType::kBF16, isa) == want);
  }
}

TEST(LinearBackward, InBF16TheForwardIsThatOfWeightsOfTheType) {
  for (const Isa isa : tested_isas()) {
    Taped t(isa);
    const Projections p(t, DType::kBF16);
    const Tensor values = random_tensor({131, kK}, 7), y = p.forward(t.ctx, t.input(values));
    Machine plain(isa);
    plain.stream.compute = Compute::kBF16;
    std::vector<Weight> weights;
    for (size_t w = 0; w < p.masters.size(); ++w) {
      weights.emplace_back(kHeights[w], kK, DType::kBF16, Weight::Layout::kPanels);
      weights.back().write_rows(plain.stream, 0, kHeights[w], p.masters[w].raw(), DType::kF32);
      weights.back().bias = p.weights[w].bias;
    }
    EXPECT_TRUE(same_bits(ops::linear(plain.ctx, values, {&weights[0], &weights[1], &weights[2], &weights[3]}), y));
  }
}

TEST(LinearBackward, RowsWithoutGradientChangeNoBit) {
  const Tensor x = random_tensor({300, kK}, 5), d = random_tensor({300, kOutputs}, 6);
  for (int64_t i = 0; i < 101 * kOutputs; ++i) d.f32()[i] = d.f32()[199 * kOutputs + i] = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    EXPECT_EQ(run(3, {0, 300}, x, d, dtype).parameters,
              run(3, {0, 98}, x.rows(101, 199), d.rows(101, 199), dtype).parameters);
  }
}

TEST(LinearBackward, ATapeChangesNoBitOfTheForward) {
  Taped t;
  const Projections p(t);
  const Tensor values = random_tensor({131, kK}, 7);
  Machine plain;
  EXPECT_TRUE(same_bits(p.forward(t.ctx, t.input(values)), p.forward(plain.ctx, values)));
}

TEST(LinearBackward, FrozenWeightsPassTheGradientOn) {
  Taped t;
  const Weight weight = Weight::of_master(t.stream, random_tensor({40, kK}, 3), Weight::Layout::kPanels);
  const Tensor x = t.input(random_tensor({9, kK}, 4)), y = ops::linear(t.ctx, x, {&weight});
  t.backward({{y, random_tensor(y.shape(), 5)}});
  EXPECT_TRUE(t.gradient(x).defined());
}

TEST(LinearBackward, AWeightThatWasNotLoadedForTrainingIsRefused) {
  Taped t;
  Weight weight(40, kK, DType::kF32, Weight::Layout::kPanels);
  const Tensor x = t.input(random_tensor({9, kK}, 4)), y = ops::linear(t.ctx, x, {&weight});
  EXPECT_THROW(t.backward({{y, random_tensor(y.shape(), 5)}}), Error);
}

TEST(LinearBackward, ARepackedWeightIsItsMaster) {
  Machine m;
  const Tensor master = random_tensor({70, kK}, 1), x = random_tensor({5, kK}, 2);
  const Weight weight = Weight::of_master(m.stream, master, Weight::Layout::kPanels);
  const Weight copy = weight;
  for (int64_t i = 0; i < master.count(); ++i) master.f32()[i] *= 2;
  weight.repack(m.stream);
  const Weight fresh = Weight::of_master(m.stream, master, Weight::Layout::kPanels);
  EXPECT_TRUE(same_bits(ops::linear(m.ctx, x, {&copy}), ops::linear(m.ctx, x, {&fresh})));
}

}  // namespace
}  // namespace carousel
