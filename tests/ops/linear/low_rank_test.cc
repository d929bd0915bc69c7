// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/linear/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/parallel.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"

namespace carousel::ops {
namespace {

Tensor drawn(const Shape& shape, uint64_t seed) {
  Rng rng(seed);
  const Tensor out(shape, DType::kF32);
  for (int64_t i = 0; i < out.count(); ++i) out.f32()[i] = static_cast<float>(rng.normal());
  return out;
}

/// ||got - want|| / ||want|| with want[i] from f64 sums.
template <class F>
double distance(const Tensor& got, const F& want) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < got.dim(0); ++i) {
    for (int64_t j = 0; j < got.dim(1); ++j) {
      const double w = want(i, j);
      difference += std::pow(static_cast<double>(got.f32()[i * got.dim(1) + j]) - w, 2);
      size += w * w;
    }
  }
  return std::sqrt(difference / size);
}

double at(const Tensor& x, int64_t i, int64_t j) { return static_cast<double>(x.f32()[i * x.dim(1) + j]); }

// Chains of f32 over at most 131 terms.
constexpr double kTolerance = 1e-6;

TEST(LowRank, SumAndGradientsEqualThoseInF64) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
    const int64_t M = 131, K = 77, R = 5;
    const float scale = 0.75f;
    const LowRank low = {drawn({R, K}, 1), drawn({M, R}, 2), scale};
    const Tensor base = drawn({M, K}, 3), w = base.clone();
    add_low_rank(stream, low, w);
    const auto sum = [&](int64_t m, int64_t k) {
      double product = 0;
      for (int64_t r = 0; r < R; ++r) product += at(low.b, m, r) * at(low.a, r, k);
      return at(base, m, k) + scale * product;
    };
    EXPECT_LE(distance(w, sum), kTolerance);

    const Tensor d_w = drawn({M, K}, 4), d_a = drawn({R, K}, 5), d_b = drawn({M, R}, 6);
    const Tensor a_before = d_a.clone(), b_before = d_b.clone();
    low_rank_backward(stream, low, d_w, d_a, d_b);
    const auto grad_a = [&](int64_t r, int64_t k) {
      double product = 0;
      for (int64_t m = 0; m < M; ++m) product += at(low.b, m, r) * at(d_w, m, k);
      return at(a_before, r, k) + scale * product;
    };
    const auto grad_b = [&](int64_t m, int64_t r) {
      double product = 0;
      for (int64_t k = 0; k < K; ++k) product += at(d_w, m, k) * at(low.a, r, k);
      return at(b_before, m, r) + scale * product;
    };
    EXPECT_LE(distance(d_a, grad_a), kTolerance);
    EXPECT_LE(distance(d_b, grad_b), kTolerance);
  }
}

}  // namespace
}  // namespace carousel::ops
