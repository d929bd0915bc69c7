// SPDX-License-Identifier: Apache-2.0
// The vector exp, tanh and sigmoid against the C library in f64, over the whole range of f32, in units of the last
// place of the exact result; extremes and NaN.
#include "carousel/cpu/vec_arrays.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/isas.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Kernel = void (*)(const Stream&, const cpu::ArrayArgs&);

std::vector<float> apply(const Machine& machine, Kernel kernel, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  kernel(machine.stream, {x.data(), y.data(), static_cast<int64_t>(x.size())});
  return y;
}

/// Every 499th bit pattern, both signs, and a dense sweep of [-110, 110].
std::vector<float> sweep() {
  std::vector<float> x;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 499) {
    const float value = bits_to_float(static_cast<uint32_t>(bits));
    if (std::isfinite(value)) x.push_back(value);
  }
  for (int i = 0; i <= 2'000'000; ++i) x.push_back(static_cast<float>(-110.0 + 220.0 * i / 2e6));
  return x;
}

/// Distance between neighbouring floats at |value|.
double ulp(double value) {
  const double magnitude = std::max(std::abs(value), 0x1p-126);
  return std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

/// The largest error in ulps; results that leave the range of f32 must be 0 or infinity as f32 rounding gives.
double worst_error(const std::vector<float>& x, const std::vector<float>& y, double (*exact)(double)) {
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = exact(x[i]);
    if (std::abs(expected) > double{std::numeric_limits<float>::max()}) {
      // Within an ulp of the largest float the rounding may fall to either side.
      if (y[i] != kInfinity && y[i] != std::numeric_limits<float>::max()) return 1e9;
      continue;
    }
    const double error = std::abs(double{y[i]} - expected) / ulp(expected);
    if (!(error <= worst)) worst = std::isnan(error) ? 1e9 : error;
  }
  return worst;
}

TEST(Exp, WithinOneAndAHalfUlp) {
  const std::vector<float> x = sweep();
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    EXPECT_LT(worst_error(x, apply(machine, kernels::exp_array, x), [](double v) { return std::exp(v); }), 1.5)
        << cpu::isa_name(isa);
  }
}

TEST(Exp, Extremes) {
  const std::vector<float> x = {0.0f, -0.0f, kInfinity, -kInfinity, 1e30f, -1e30f, 88.8f, -105.0f, -87.5f, -100.0f};
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const std::vector<float> y = apply(machine, kernels::exp_array, x);
    EXPECT_EQ(y[0], 1.0f);
    EXPECT_EQ(y[1], 1.0f);
    EXPECT_EQ(y[2], kInfinity);
    EXPECT_EQ(y[3], 0.0f);
    EXPECT_EQ(y[4], kInfinity);
    EXPECT_EQ(y[5], 0.0f);
    EXPECT_EQ(y[6], kInfinity);
    EXPECT_EQ(y[7], 0.0f);
    EXPECT_GT(y[8], 0.0f);
    EXPECT_GT(y[9], 0.0f);  // subnormal
  }
}

TEST(Exp, NanStaysNan) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const std::vector<float> x(5, std::numeric_limits<float>::quiet_NaN());
    for (const Kernel kernel : {kernels::exp_array, kernels::tanh_array, kernels::sigmoid_array}) {
      for (const float y : apply(machine, kernel, x)) EXPECT_TRUE(std::isnan(y));
    }
  }
}

TEST(Tanh, WithinFourUlp) {
  const std::vector<float> x = sweep();
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    EXPECT_LT(worst_error(x, apply(machine, kernels::tanh_array, x), [](double v) { return std::tanh(v); }), 4.0)
        << cpu::isa_name(isa);
  }
}

TEST(Tanh, SignsAndExtremes) {
  const std::vector<float> x = {0.0f, -0.0f, kInfinity, -kInfinity, 1e30f, -1e30f, 1e-40f, -1e-40f};
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const std::vector<float> y = apply(machine, kernels::tanh_array, x);
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_FALSE(std::signbit(y[0]));
    EXPECT_TRUE(std::signbit(y[1]));
    EXPECT_EQ(y[2], 1.0f);
    EXPECT_EQ(y[3], -1.0f);
    EXPECT_EQ(y[4], 1.0f);
    EXPECT_EQ(y[5], -1.0f);
    EXPECT_EQ(y[6], x[6]);
    EXPECT_EQ(y[7], x[7]);
  }
}

TEST(Sigmoid, WithinThreeUlpAndSaturates) {
  std::vector<float> x;
  for (const float value : sweep()) {
    if (value > -87.0f) x.push_back(value);  // below, the result is subnormal and 1 + e^-x overflows first
  }
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const std::vector<float> y = apply(machine, kernels::sigmoid_array, x);
    EXPECT_LT(worst_error(x, y, [](double v) { return 1 / (1 + std::exp(-v)); }), 3.0) << cpu::isa_name(isa);
    const std::vector<float> ends = apply(machine, kernels::sigmoid_array, {-kInfinity, kInfinity, -1e30f, 0.0f});
    EXPECT_EQ(ends, (std::vector<float>{0.0f, 1.0f, 0.0f, 0.5f}));
  }
}

}  // namespace
}  // namespace carousel
