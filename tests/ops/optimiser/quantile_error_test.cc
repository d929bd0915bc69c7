// SPDX-License-Identifier: Apache-2.0
// The quantile error against its formula in f64, with targets that are missing.
#include "carousel/ops/optimiser/quantile_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

TEST(QuantileError, HasItsSlopesAndSkipsWhatIsMissing) {
  const int64_t N = 70, P = 8;
  const std::vector<double> levels = {0.1, 0.5, 0.75};
  const auto width = static_cast<int64_t>(levels.size()) * P;
  for (const Isa isa : tested_isas()) {
    Taped t(isa);
    const Tensor values = random_tensor({N, width}, 1), wanted = random_tensor({N, P}, 2), y = t.input(values);
    for (const int64_t i : {int64_t{0}, int64_t{9}, N * P - 1}) {
      wanted.f32()[i] = std::numeric_limits<float>::quiet_NaN();
    }
    Ctx plain{t.stream, t.arena};
    Grads grads(t.tape);
    const Tensor losses = ops::quantile_error(plain, y, wanted, levels, &grads, 0.5f);
    double sum = 0, want = 0;
    std::vector<double> slopes(static_cast<size_t>(values.count()));
    for (int64_t n = 0; n < N; ++n) {
      sum += double{losses.f32()[n]};
      for (int64_t j = 0; j < width; ++j) {
        const double level = levels[static_cast<size_t>(j / P)];
        const float target = wanted.f32()[n * P + j % P];
        if (std::isnan(target)) continue;
        const double d = double{target} - double{values.f32()[n * width + j]};
        want += std::max(level * d, (level - 1) * d) / 3;
        slopes[static_cast<size_t>(n * width + j)] = 0.5 * (d > 0 ? -level : 1 - level) / 3;
      }
    }
    EXPECT_NEAR(sum, want, 1e-5 * want);
    EXPECT_LT(relative_error(grads.take(plain, y).f32(), slopes), 1e-6);
  }
}

TEST(QuantileError, AForecastThatIsItsTargetHasNoSlope) {
  Taped t(cpu::best_isa());
  const Tensor y = t.input(Tensor({2, 2}, DType::kF32)), wanted({2, 1}, DType::kF32);
  const std::vector<double> levels = {0.25, 0.5};
  Ctx plain{t.stream, t.arena};
  Grads grads(t.tape);
  const Tensor losses = ops::quantile_error(plain, y, wanted, levels, &grads);
  EXPECT_EQ(losses.f32()[1], 0.0f);
  const Tensor d_y = grads.take(plain, y);
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(d_y.f32()[i], 0.0f);
}

}  // namespace
}  // namespace carousel
