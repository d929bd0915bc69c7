// SPDX-License-Identifier: Apache-2.0
// Muon and SGD against their formulas in f64: the same bits for any number of threads.
#include "carousel/ops/optimiser/muon.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using Matrix = std::vector<double>;  // row-major

Matrix product(const Matrix& a, const Matrix& b, size_t rows, size_t inner, size_t cols) {
  Matrix out(rows * cols);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t k = 0; k < inner; ++k) {
      for (size_t j = 0; j < cols; ++j) out[i * cols + j] += a[i * inner + k] * b[k * cols + j];
    }
  }
  return out;
}

Matrix transposed(const Matrix& a, size_t rows, size_t cols) {
  Matrix out(a.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) out[j * rows + i] = a[i * cols + j];
  }
  return out;
}

/// torch.optim.Muon's iteration on [rows, cols].
Matrix orthogonal(Matrix x, size_t rows, size_t cols) {
  double norm = 0;
  for (const double value : x) norm += value * value;
  for (double& value : x) value /= std::max(std::sqrt(norm), 1e-7);
  if (rows > cols) return transposed(orthogonal(transposed(x, rows, cols), cols, rows), cols, rows);
  for (int step = 0; step < 5; ++step) {
    Matrix a = product(x, transposed(x, rows, cols), rows, cols, rows);
    const Matrix square = product(a, a, rows, rows, rows);
    for (size_t i = 0; i < a.size(); ++i) a[i] = -4.7750 * a[i] + 2.0315 * square[i];
    const Matrix more = product(a, x, rows, rows, cols);
    for (size_t i = 0; i < x.size(); ++i) x[i] = 3.4445 * x[i] + more[i];
  }
  return x;
}

class MuonShapes : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(MuonShapes, TakesTheStepsOfTheFormula) {
  const auto [rows, cols] = GetParam();
  const int64_t count = rows * cols, first = 16;
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const Tensor w = random_tensor({count + 32}, 1), m({count + 32}, DType::kF32);
    const Tensor before = w.clone();
    Matrix want = to_f64(w.rows(first, first + count)), want_m(static_cast<size_t>(count));
    for (uint64_t step = 1; step <= 3; ++step) {
      const Tensor g = random_tensor({count + 32}, 1 + step);
      ops::muon(machine.ctx, {0.02f, 0.95f, 0.1f, 0.5f}, {w, g, m, first, rows, cols});
      Matrix u(static_cast<size_t>(count));
      for (size_t i = 0; i < u.size(); ++i) {
        const double grad = 0.5 * double{g.f32()[i + static_cast<size_t>(first)]};
        want_m[i] += 0.05 * (grad - want_m[i]);
        u[i] = grad + 0.95 * (want_m[i] - grad);
      }
      const Matrix x = orthogonal(u, static_cast<size_t>(rows), static_cast<size_t>(cols));
      const double rate = 0.02 * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
      for (size_t i = 0; i < x.size(); ++i) want[i] = want[i] * (1 - 0.02 * 0.1) - rate * x[i];
    }
    EXPECT_LT(relative_error(w.f32() + first, want), 1e-5);
    EXPECT_LT(relative_error(m.f32() + first, want_m), 1e-6);
    EXPECT_TRUE(same_bits(w.f32(), before.f32(), first));
    EXPECT_TRUE(same_bits(w.f32() + first + count, before.f32() + first + count, 16));
  }
}

TEST_P(MuonShapes, HasTheSameBitsOnAnyThreads) {
  const auto [rows, cols] = GetParam();
  const Tensor g = random_tensor({rows * cols}, 2);
  std::vector<Tensor> results;
  for (const int threads : {1, 2, 3}) {
    Machine machine(cpu::best_isa(), threads);
    const Tensor w = random_tensor({rows * cols}, 1), m({rows * cols}, DType::kF32);
    ops::muon(machine.ctx, {}, {w, g, m, 0, rows, cols});
    results.push_back(w);
  }
  EXPECT_TRUE(same_bits(results[0], results[1]));
  EXPECT_TRUE(same_bits(results[0], results[2]));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MuonShapes,
                         testing::Values(std::pair<int64_t, int64_t>{1, 1}, std::pair<int64_t, int64_t>{5, 70},
                                         std::pair<int64_t, int64_t>{70, 5}, std::pair<int64_t, int64_t>{64, 64},
                                         std::pair<int64_t, int64_t>{131, 67}, std::pair<int64_t, int64_t>{33, 129}));

TEST(Muon, AGradientOfZerosIsNoUpdate) {
  Machine machine;
  const Tensor w = random_tensor({12}, 1), g({12}, DType::kF32), m({12}, DType::kF32), before = w.clone();
  ops::muon(machine.ctx, {0.02f, 0.95f, 0, 1}, {w, g, m, 0, 3, 4});
  EXPECT_TRUE(same_bits(w, before));
}

TEST(Sgd, TakesTheStepsOfTheFormula) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const int64_t count = 9001;
    const Tensor w = random_tensor({count}, 1), m({count}, DType::kF32);
    std::vector<double> want = to_f64(w), want_m(static_cast<size_t>(count));
    for (uint64_t step = 1; step <= 3; ++step) {
      const Tensor g = random_tensor({count}, 1 + step);
      ops::sgd(machine.stream, {0.1f, 0.9f, 0.01f, 0.5f}, {w, g, m, 0, count});
      for (size_t i = 0; i < want.size(); ++i) {
        want_m[i] = 0.9 * want_m[i] + 0.5 * double{g.f32()[i]};
        want[i] = want[i] * (1 - 0.1 * 0.01) - 0.1 * want_m[i];
      }
    }
    EXPECT_LT(relative_error(w.f32(), want), 1e-6);
  }
}

}  // namespace
}  // namespace carousel
