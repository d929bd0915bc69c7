// SPDX-License-Identifier: Apache-2.0
// Masked weights: held sparse they give what f64 gives, and what the same matrix with zeros gives; a weight that is not
// there is never multiplied; a row's bits depend on nothing but the row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"
#include "carousel/ops/linear/linear.h"
#include "tests/isas.h"
#include "tests/ops/drawn.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

/// Rows of very different numbers of live weights, some of none.
MatrixMask uneven_mask(int64_t M, int64_t K, double density, uint64_t seed) {
  Rng rng(seed);
  std::vector<int8_t> signs;
  for (int64_t m = 0; m < M; ++m) {
    const double row = m % 7 == 3 ? 0.0 : density * 2 * rng.uniform();
    for (int64_t k = 0; k < K; ++k) {
      signs.push_back(rng.uniform() >= row ? int8_t{0} : rng.uniform() < 0.5 ? int8_t{-1} : int8_t{1});
    }
  }
  return {M, K, true, std::move(signs)};
}

/// A masked weight, the same matrix held dense, and its exact values.
struct Case {
  Weight sparse, dense;       // [M, K]
  std::vector<float> values;  // [M, K], after rounding to the weight's dtype; 0 where masked
};

Case make_case(const Stream& stream, const Mask& mask, DType dtype, bool bias, uint64_t seed) {
  const int64_t M = mask.rows(), K = mask.cols();
  std::vector<float> exact = normals(M * K, seed);
  impose_mask(mask, exact.data());
  std::vector<std::byte> stored(exact.size() * dtype_size(dtype));
  narrow(exact.data(), dtype, stored.data(), exact.size());
  Case c;
  c.values.resize(exact.size());
  widen(stored.data(), dtype, c.values.data(), exact.size());
  c.sparse = Weight(mask, dtype);
  c.dense = Weight(M, K, dtype, Weight::Layout::kPanels);
  for (Weight* weight : {&c.sparse, &c.dense}) {
    weight->write_rows(stream, 0, M, stored.data());
    if (bias) weight->bias = tensor_of(normals(M, seed + 1), {M});
  }
  return c;
}

void expect_product(const Tensor& y, int64_t first_col, const Tensor& x, const Case& c) {
  const int64_t N = x.dim(0), K = x.dim(1), M = c.sparse.rows();
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < M; ++m) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double term = double{x.f32()[n * K + k]} * double{c.values[static_cast<size_t>(m * K + k)]};
        sum += term;
        magnitude += std::abs(term);
      }
      if (c.sparse.bias.defined()) {
        sum += double{c.sparse.bias.f32()[m]};
        magnitude += std::abs(double{c.sparse.bias.f32()[m]});
      }
      const double bound = (2.0 * static_cast<double>(K) + 1) * 0x1p-24 * magnitude;
      ASSERT_NEAR(double{y.f32()[n * y.dim(1) + first_col + m]}, sum, bound) << "n " << n << " m " << m;
    }
  }
}

TEST(SparseLinear, AgreesWithF64AndWithZerosHeld) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 3);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kDTypes) {
      for (const int64_t K : {9, 64, 255, 515}) {
        for (const int64_t M : {1, 31, 32, 33, 100}) {
          const MatrixMask mask = uneven_mask(M, K, 0.1, static_cast<uint64_t>(K * 100 + M));
          const Case c = make_case(ctx.stream, mask, dtype, M % 2 == 1, static_cast<uint64_t>(K * 1000 + M));
          ASSERT_EQ(c.sparse.as<SparsePanels>() != nullptr, SparsePanels::pays(mask.live(), M, K));
          for (const int64_t N : {1, 2, 3, 8, 17, 33, 64, 100}) {
            SCOPED_TRACE(::testing::Message()
                         << cpu::isa_name(isa) << " " << dtype_name(dtype) << " K " << K << " M " << M << " N " << N);
            const Tensor x = tensor_of(normals(N * K, 7), {N, K});
            const Tensor y = ops::linear(ctx, x, {&c.sparse});
            ASSERT_EQ(y.shape(), (Shape{N, M}));
            ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, x, c));
            ASSERT_TRUE(same_bits(y.f32(), ops::linear(ctx, x, {&c.dense}).f32(), N * M));
          }
        }
      }
    }
  }
}

// More columns than 16 bits count, the last of them live.
TEST(SparseLinear, WideColumns) {
  const int64_t M = 5, K = 70001;
  std::vector<int8_t> signs(static_cast<size_t>(M * K));
  for (int64_t m = 0; m < M; ++m) {
    for (const int64_t k : {m, int64_t{65535}, int64_t{65536}, K - 1 - m}) signs[static_cast<size_t>(m * K + k)] = 1;
  }
  const MatrixMask mask(M, K, false, signs);
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kDTypes) {
      const Case c = make_case(ctx.stream, mask, dtype, false, 3);
      ASSERT_NE(c.sparse.as<SparsePanels>(), nullptr);
      for (const int64_t N : {1, 3}) {
        const Tensor x = tensor_of(normals(N * K, 4), {N, K});
        ASSERT_NO_FATAL_FAILURE(expect_product(ops::linear(ctx, x, {&c.sparse}), 0, x, c));
      }
    }
  }
}

TEST(SparseLinear, StandsBesideDenseWeights) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const int64_t K = 67;
    const Case a = make_case(ctx.stream, uneven_mask(40, K, 0.1, 1), DType::kBF16, true, 1);
    const Case b = make_case(ctx.stream, uneven_mask(3, K, 0.9, 2), DType::kF32, false, 2);
    const Case c = make_case(ctx.stream, uneven_mask(65, K, 0.05, 3), DType::kF16, true, 3);
    ASSERT_TRUE(a.sparse.as<SparsePanels>() != nullptr && b.sparse.as<SparsePanels>() == nullptr &&
                c.sparse.as<SparsePanels>() != nullptr);
    for (const int64_t N : {1, 2, 30, 200}) {
      const Tensor x = tensor_of(normals(N * K, 4), {N, K});
      const Tensor y = ops::linear(ctx, x, {&a.sparse, &b.sparse, &c.sparse});
      ASSERT_EQ(y.shape(), (Shape{N, 108}));
      ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, x, a));
      ASSERT_NO_FATAL_FAILURE(expect_product(y, 40, x, b));
      ASSERT_NO_FATAL_FAILURE(expect_product(y, 43, x, c));
    }
  }
}

TEST(SparseLinear, RowAloneHasTheBitsItHasInABatch) {
  ThreadPool one(1), four(4);
  for (const Isa isa : tested_isas()) {
    const Stream stream{&Memory::host(), isa, &four}, single{&Memory::host(), isa, &one};
    Arena arena;
    Ctx ctx{stream, arena}, single_ctx{single, arena};
    for (const DType dtype : kDTypes) {
      const int64_t M = 100, K = 300;
      const Case c = make_case(stream, uneven_mask(M, K, 0.1, 5), dtype, true, 11);
      const Tensor x = tensor_of(normals(600 * K, 12), {600, K});
      const Tensor all = ops::linear(ctx, x, {&c.sparse});
      EXPECT_TRUE(same_bits(ops::linear(single_ctx, x, {&c.sparse}).f32(), all.f32(), 600 * M));
      for (const int64_t N : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 513}) {
        const Tensor some = ops::linear(ctx, x.rows(17, 17 + N), {&c.sparse});
        EXPECT_TRUE(same_bits(some.f32(), all.f32() + 17 * M, N * M))
            << cpu::isa_name(isa) << " " << dtype_name(dtype) << " N " << N;
      }
    }
  }
}

// 0 x infinity is not 0: a weight that is not there must not be multiplied at all, padding of its panel included.
TEST(SparseLinear, WhatIsMaskedIsNeverMultiplied) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const int64_t M = 40, K = 64;
    std::vector<int8_t> signs(static_cast<size_t>(M * K));
    for (int64_t m = 0; m < M; ++m) {  // rows of 0 to 4 live weights, none in column 0, whose index padding has
      for (int64_t l = 0; l < m % 5; ++l) signs[static_cast<size_t>(m * K + 1 + (m + 7 * l) % (K - 1))] = 1;
    }
    const MatrixMask mask(M, K, false, signs);
    const Case c = make_case(ctx.stream, mask, DType::kF32, false, 31);
    for (const int64_t N : {1, 2, 20}) {
      std::vector<float> values = normals(N * K, 32);
      for (int64_t n = 0; n < N; ++n) values[static_cast<size_t>(n * K)] = inf;
      const Tensor y = ops::linear(ctx, tensor_of(values, {N, K}), {&c.sparse});
      EXPECT_TRUE(std::all_of(y.f32(), y.f32() + N * M, [](float v) { return std::isfinite(v); })) << "N " << N;
    }
  }
}

TEST(SparseLinear, RowsReadBackAndSizeIsOfLiveWeights) {
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  for (const DType dtype : kDTypes) {
    const int64_t M = 70, K = 333;
    const MatrixMask mask = uneven_mask(M, K, 0.08, 9);
    const Case c = make_case(stream, mask, dtype, false, 10);
    std::vector<float> rows(static_cast<size_t>(M * K), 7.0f);
    c.sparse.read_rows(0, M, rows.data());
    EXPECT_EQ(rows, c.values);
    std::vector<float> some(static_cast<size_t>(3 * K));
    c.sparse.read_rows(33, 3, some.data());
    EXPECT_TRUE(same_bits(some.data(), rows.data() + 33 * K, 3 * K));
    EXPECT_LT(c.sparse.size_bytes(), c.dense.size_bytes());
    EXPECT_GE(c.sparse.size_bytes(), static_cast<size_t>(mask.live()) * (dtype_size(dtype) + 2));
    const Weight meta(mask, dtype, Memory::meta());
    EXPECT_EQ(meta.size_bytes(), c.sparse.size_bytes());
    EXPECT_EQ(meta.device(), Device::kMeta);
  }
}

TEST(Mask, AnAllOnesMaskIsHeldAsPanels) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  const MatrixMask mask(33, 20, false, std::vector<int8_t>(33 * 20, 1));
  const Case c = make_case(stream, mask, DType::kF32, false, 1);
  ASSERT_EQ(c.sparse.as<SparsePanels>(), nullptr);
  EXPECT_EQ(std::memcmp(c.sparse.as<DensePanels>()->panels().raw(), c.dense.as<DensePanels>()->panels().raw(),
                        c.dense.size_bytes()),
            0);
}

TEST(Mask, ClearsWhatIsMaskedAndFindsTheWrongSign) {
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  const MatrixMask mask(2, 3, true, {1, 0, -1, 0, 1, 1});
  for (const DType dtype : kDTypes) {
    const auto findings = [&](std::vector<float> values, int64_t first, int64_t count) {
      std::vector<std::byte> rows(values.size() * dtype_size(dtype));
      narrow(values.data(), dtype, rows.data(), values.size());
      const MaskFindings found = clear_masked(stream, mask, first, count, dtype, rows.data());
      widen(rows.data(), dtype, values.data(), values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        const bool live = (std::vector<int>{1, 0, 1, 0, 1, 1})[static_cast<size_t>(first) * 3 + i] != 0;
        if (!live) {
          EXPECT_EQ(values[i], 0.0f);
        }
      }
      return found;
    };
    EXPECT_EQ(findings({1, 5, -1, -0.0f, 2, 0}, 0, 2).cleared, 1);
    EXPECT_FALSE(findings({1, 5, -1, -0.0f, 2, -0.0f}, 0, 2).wrong_sign);
    EXPECT_EQ(findings({1, 0, 1, 7, -2, 0}, 0, 2).wrong_sign, 2);
    EXPECT_EQ(findings({0, -2, 1}, 1, 1).wrong_sign, 4);
  }
}

}  // namespace
}  // namespace carousel
