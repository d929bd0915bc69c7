// SPDX-License-Identifier: Apache-2.0
// Gradients of ops::linear against sums in f64 (the product is linear, so its slopes need no differences), and the
// promises of sums over rows: threads, cuts of the batch and rows without gradient change no bit.
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
  explicit Projections(Taped& t) {
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

struct Gradients {
  std::vector<std::vector<float>> parameters;
  std::vector<float> x;
  bool operator==(const Gradients&) const = default;
};

/// The batch cut after these rows, one part after the other.
Gradients run(int threads, const std::vector<int64_t>& cuts, const Tensor& values, const Tensor& d) {
  Taped t(cpu::best_isa(), threads);
  const Projections p(t);
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

TEST(LinearBackward, RowsWithoutGradientChangeNoBit) {
  const Tensor x = random_tensor({300, kK}, 5), d = random_tensor({300, kOutputs}, 6);
  for (int64_t i = 0; i < 100 * kOutputs; ++i) d.f32()[i] = d.f32()[200 * kOutputs + i] = 0;
  EXPECT_EQ(run(3, {0, 300}, x, d).parameters, run(3, {0, 100}, x.rows(100, 200), d.rows(100, 200)).parameters);
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
