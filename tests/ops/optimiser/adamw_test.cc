// SPDX-License-Identifier: Apache-2.0
// AdamW against its formula in f64, and the norm of gradients: the same bits for any number of threads.
#include "carousel/ops/optimiser/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/ops/optimiser/squared_error.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

TEST(AdamW, TakesTheStepsOfTheFormula) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const int64_t count = 9001, first = 5;
    const Tensor w = random_tensor({count}, 1), g = random_tensor({count}, 2), m({count}, DType::kF32),
                 v({count}, DType::kF32);
    std::vector<double> want = to_f64(w), want_m(static_cast<size_t>(count)), want_v(static_cast<size_t>(count));
    for (int64_t step = 1; step <= 3; ++step) {
      ops::adamw(machine.stream, {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, step, 0.5f}, {w, g, m, v, first, count - first - 3});
      for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(count - 3); ++i) {
        const double grad = 0.5 * double{g.f32()[i]};
        want_m[i] = 0.9 * want_m[i] + 0.1 * grad;
        want_v[i] = 0.95 * want_v[i] + 0.05 * grad * grad;
        const double at = static_cast<double>(step);
        const double size = std::sqrt(want_v[i] / (1 - std::pow(0.95, at))) + 1e-8;
        want[i] = want[i] * (1 - 1e-2 * 0.1) - 1e-2 / (1 - std::pow(0.9, at)) * want_m[i] / size;
      }
    }
    EXPECT_LT(relative_error(w.f32(), want), 1e-6);
    EXPECT_EQ(m.f32()[4], 0.0f);
    EXPECT_EQ(m.f32()[count - 1], 0.0f);
  }
}

TEST(AdamW, TheNormHasTheSameBitsOnAnyThreads) {
  const Tensor x = random_tensor({400'003}, 1);
  double want = 0;
  for (int64_t i = 0; i < x.count(); ++i) want += double{x.f32()[i]} * double{x.f32()[i]};
  Machine one(cpu::best_isa(), 1), three(cpu::best_isa(), 3);
  EXPECT_NEAR(ops::sum_of_squares(one.stream, x), want, 1e-9 * want);
  EXPECT_EQ(ops::sum_of_squares(one.stream, x), ops::sum_of_squares(three.stream, x));
  EXPECT_EQ(ops::sum_of_squares(one.stream, Tensor({0}, DType::kF32)), 0);
}

TEST(SquaredError, HasItsSlopes) {
  for (const Isa isa : tested_isas()) {
    Taped t(isa);
    const Tensor values = random_tensor({70, 5}, 1), wanted = random_tensor({70, 5}, 2), y = t.input(values);
    Ctx plain{t.stream, t.arena};
    Grads grads(t.tape);
    const Tensor losses = ops::squared_error(plain, y, wanted, &grads, 0.5f);
    std::vector<double> at = to_f64(values);
    const auto loss = [&] {
      double sum = 0;
      for (size_t i = 0; i < at.size(); ++i)
        sum += (at[i] - double{wanted.f32()[i]}) * (at[i] - double{wanted.f32()[i]});
      return sum / 2;
    };
    double sum = 0;
    for (int64_t n = 0; n < 70; ++n) sum += double{losses.f32()[n]};
    EXPECT_NEAR(sum / 2, loss(), 1e-3);
    EXPECT_LT(gradient_error(loss, at, grads.take(plain, y).f32()), 1e-6);
  }
}

}  // namespace
}  // namespace carousel
