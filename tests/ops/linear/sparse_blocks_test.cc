// SPDX-License-Identifier: Apache-2.0
// Masked q8 and q4 weights held as bits and live codes: the bits of the same matrix with zeros held dense, everywhere.
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

constexpr DType kBlocks[] = {DType::kQ8, DType::kQ4};

/// Rows of very different numbers of live weights, some of none, one of all.
MatrixMask uneven_mask(int64_t M, int64_t K, double density, uint64_t seed) {
  Rng rng(seed);
  std::vector<int8_t> signs;
  for (int64_t m = 0; m < M; ++m) {
    const double row = m % 7 == 3 ? 0.0 : m == 40 ? 1.0 : density * 2 * rng.uniform();
    for (int64_t k = 0; k < K; ++k) signs.push_back(rng.uniform() < row ? int8_t{1} : int8_t{0});
  }
  return {M, K, false, std::move(signs)};
}

struct Case {
  Weight sparse, dense;     // [M, K]
  std::vector<float> live;  // [M, K], what they were written from, with zeros
};

/// Written in pieces that begin and end within panels: in f32 with values where nothing is, or as blocks.
Case make_case(const Stream& stream, const Mask& mask, DType dtype, bool bias, bool as_blocks, uint64_t seed) {
  const int64_t M = mask.rows(), K = mask.cols();
  Case c;
  std::vector<float> all = normals(M * K, seed);
  c.live = all;
  impose_mask(mask, c.live.data());
  c.sparse = Weight(mask, dtype, Memory::host(), true);
  c.dense = Weight(M, K, dtype, Weight::Layout::kPanels);
  c.dense.write_rows(stream, 0, M, c.live.data(), DType::kF32);
  const size_t row_bytes = dtype_bytes(dtype, static_cast<size_t>(K));
  std::vector<std::byte> stored(static_cast<size_t>(M) * row_bytes);
  for (int64_t m = 0; m < M; ++m) {
    narrow(c.live.data() + m * K, dtype, stored.data() + static_cast<size_t>(m) * row_bytes, static_cast<size_t>(K));
  }
  for (int64_t first = 0; first < M; first += 45) {
    const int64_t count = std::min<int64_t>(45, M - first);
    if (as_blocks) {
      c.sparse.write_rows(stream, first, count, stored.data() + static_cast<size_t>(first) * row_bytes);
    } else {
      c.sparse.write_rows(stream, first, count, all.data() + first * K, DType::kF32);
    }
  }
  for (Weight* weight : {&c.sparse, &c.dense}) {
    if (bias) weight->bias = tensor_of(normals(M, seed + 1), {M});
  }
  return c;
}

TEST(SparseBlocks, HaveTheBitsOfZerosHeld) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 3);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kBlocks) {
      for (const int64_t K : {32, 64, 255, 640}) {
        for (const int64_t M : {31, 32, 100}) {
          const MatrixMask mask = uneven_mask(M, K, 0.15, static_cast<uint64_t>(K * 100 + M));
          const auto seed = static_cast<uint64_t>(K * 1000 + M);
          const Case c = make_case(ctx.stream, mask, dtype, M % 2 == 1, K % 64 == 0, seed);
          ASSERT_NE(c.sparse.as<SparseBlocks>(), nullptr) << mask.live() << " of " << M * K;
          for (const int64_t N : {0, 1, 2, 3, 17, 100}) {
            const Tensor x = tensor_of(normals(N * K, 7), {N, K});
            const Tensor y = ops::linear(ctx, x, {&c.sparse});
            ASSERT_TRUE(same_bits(y, ops::linear(ctx, x, {&c.dense})))
                << cpu::isa_name(isa) << " " << dtype_name(dtype) << " K " << K << " M " << M << " N " << N;
          }
        }
      }
    }
  }
}

// Rows of x one by one, together, and on other numbers of threads; several calls' worth of expanded panels.
TEST(SparseBlocks, RowAloneHasTheBitsItHasInABatch) {
  ThreadPool one(1), four(4);
  const int64_t M = 4200, K = 2048;  // 132 panels, more than are expanded together
  for (const DType dtype : kBlocks) {
    const Stream stream{&Memory::host(), cpu::best_isa(), &four}, single{&Memory::host(), cpu::best_isa(), &one};
    Arena arena;
    Ctx ctx{stream, arena}, single_ctx{single, arena};
    const Case c = make_case(stream, uneven_mask(M, K, 0.1, 3), dtype, true, false, 4);
    const Tensor x = tensor_of(normals(9 * K, 5), {9, K});
    const Tensor all = ops::linear(ctx, x, {&c.sparse});
    EXPECT_TRUE(same_bits(all, ops::linear(ctx, x, {&c.dense})));
    EXPECT_TRUE(same_bits(all, ops::linear(single_ctx, x, {&c.sparse})));
    for (int64_t n = 0; n < 9; ++n) {
      EXPECT_TRUE(same_bits(all.rows(n, n + 1), ops::linear(ctx, x.rows(n, n + 1), {&c.sparse}))) << n;
      EXPECT_TRUE(same_bits(all.rows(n, n + 1), ops::linear(single_ctx, x.rows(n, n + 1), {&c.sparse}))) << n;
    }
  }
}

TEST(SparseBlocks, StandBesideOtherWeights) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const int64_t K = 96;
    const Case a = make_case(ctx.stream, uneven_mask(41, K, 0.1, 1), DType::kQ4, true, false, 1);
    const Case b = make_case(ctx.stream, uneven_mask(70, K, 0.2, 2), DType::kQ8, false, true, 2);
    Weight lists(uneven_mask(50, K, 0.1, 3), DType::kBF16);
    lists.write_rows(ctx.stream, 0, 50, normals(50 * K, 3).data(), DType::kF32);
    for (const int64_t N : {1, 2, 30}) {
      const Tensor x = tensor_of(normals(N * K, 4), {N, K});
      const Tensor y = ops::linear(ctx, x, {&a.sparse, &lists, &b.dense, &b.sparse});
      EXPECT_TRUE(same_bits(y, ops::linear(ctx, x, {&a.dense, &lists, &b.sparse, &b.dense}))) << N;
    }
  }
}

TEST(SparseBlocks, ABlockOfXThatIsNotFiniteMakesTheRowNaN) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const Case c = make_case(ctx.stream, uneven_mask(64, 128, 0.1, 1), DType::kQ4, false, false, 1);
    std::vector<float> values = normals(3 * 128, 2);
    values[128 + 40] = std::numeric_limits<float>::infinity();
    const Tensor x = tensor_of(values, {3, 128}), y = ops::linear(ctx, x, {&c.sparse});
    for (int64_t n = 0; n < 3; ++n) {
      const Tensor alone = ops::linear(ctx, x.rows(n, n + 1), {&c.sparse});
      for (int64_t m = 0; m < 64; ++m) {
        EXPECT_EQ(std::isnan(y.f32()[n * 64 + m]), n == 1);
        EXPECT_EQ(std::isnan(alone.f32()[m]), n == 1);
      }
    }
  }
}

TEST(SparseBlocks, RowsReadBackAndSizeIsOfBitsAndLiveCodes) {
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  for (const DType dtype : kBlocks) {
    const int64_t M = 70, K = 333;
    const MatrixMask mask = uneven_mask(M, K, 0.08, 9);
    const Case c = make_case(stream, mask, dtype, false, false, 10);
    std::vector<float> sparse(static_cast<size_t>(M * K), 7.0f), dense(sparse), some(static_cast<size_t>(3 * K));
    c.sparse.read_rows(0, M, sparse.data());
    c.dense.read_rows(0, M, dense.data());
    EXPECT_EQ(sparse, dense);
    c.sparse.read_rows(31, 3, some.data());
    EXPECT_EQ(some, std::vector<float>(sparse.begin() + 31 * K, sparse.begin() + 34 * K));
    EXPECT_LT(c.sparse.size_bytes(), c.dense.size_bytes());
    EXPECT_GE(c.sparse.size_bytes(), static_cast<size_t>(mask.live() + 3 * 11 * SparseBlocks::kHeadBytes));
    const Weight meta(mask, dtype, Memory::meta(), true);
    EXPECT_EQ(meta.size_bytes(), c.sparse.size_bytes());
  }
}

// Too few live weights for bits to pay, and machines whose kernel for them would be slow: f16 values with their
// columns.
TEST(SparseBlocks, AreNotUsedWhereTheyDoNotPay) {
  const MatrixMask few = uneven_mask(64, 256, 0.01, 1), some = uneven_mask(64, 256, 0.1, 1);
  for (const DType dtype : kBlocks) {
    EXPECT_NE(Weight(some, dtype, Memory::host(), true).as<SparseBlocks>(), nullptr);
    for (const Weight& weight :
         {Weight(few, dtype, Memory::host(), true), Weight(some, dtype, Memory::host(), false)}) {
      EXPECT_EQ(weight.as<SparseBlocks>(), nullptr);
      ASSERT_NE(weight.as<SparsePanels>(), nullptr);
      EXPECT_EQ(weight.as<SparsePanels>()->dtype(), DType::kF16);
    }
  }
  EXPECT_EQ(Weight(some, DType::kBF16, Memory::host(), true).as<SparseBlocks>(), nullptr);
}

// A model quantised while it loads is the one that was quantised into a file, on machines that hold its blocks in f16
// too.
TEST(SparseBlocks, HeldInF16TheyHaveTheValuesOfBlocks) {
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  for (const DType dtype : kBlocks) {
    const int64_t M = 70, K = 333;
    const MatrixMask mask = uneven_mask(M, K, 0.08, 9);
    std::vector<float> all = normals(M * K, 10), expected(static_cast<size_t>(M * K)), found(expected);
    for (size_t k = 0; k < 32; ++k) all[k + 35 * K] = 65504.0f;  // codes times scale may round to more than f16 holds
    std::vector<F16> halves(all.size());
    narrow(all.data(), DType::kF16, halves.data(), all.size());
    widen(halves.data(), DType::kF16, all.data(), all.size());
    std::vector<float> live = all;
    impose_mask(mask, live.data());
    Weight dense(M, K, dtype, Weight::Layout::kPanels);
    dense.write_rows(stream, 0, M, live.data(), DType::kF32);
    dense.read_rows(0, M, expected.data());
    for (float& value : expected) value = to_float(to_f16(std::clamp(value, -65504.0f, 65504.0f)));
    const size_t row_bytes = dtype_bytes(dtype, K);
    std::vector<std::byte> stored(M * row_bytes);
    for (size_t m = 0; m < M; ++m) narrow(live.data() + m * K, dtype, stored.data() + m * row_bytes, K);

    Weight loaded(mask, dtype, Memory::host(), false), written(mask, dtype, Memory::host(), false);
    ASSERT_NE(loaded.as<SparsePanels>(), nullptr);
    loaded.write_rows(stream, 0, 33, all.data(), DType::kF32);
    loaded.write_rows(stream, 33, M - 33, halves.data() + 33 * K, DType::kF16);
    written.write_rows(stream, 0, M, stored.data());
    for (const Weight* weight : {&loaded, &written}) {
      weight->read_rows(0, M, found.data());
      EXPECT_EQ(found, expected) << dtype_name(dtype);
    }
  }
}

TEST(SparseBlocks, SteadyStateAllocatesNothing) {
  Machine machine(cpu::best_isa(), 2);
  Ctx& ctx = machine.ctx;
  const Case c = make_case(ctx.stream, uneven_mask(64, 256, 0.1, 1), DType::kQ4, false, false, 1);
  const Tensor x = tensor_of(normals(5 * 256, 2), {5, 256});
  ops::linear(ctx, x, {&c.sparse});
  const size_t before = ctx.arena.size_bytes();
  for (const int64_t N : {1, 5, 0, 2}) ops::linear(ctx, x.rows(0, N), {&c.sparse});
  EXPECT_EQ(ctx.arena.size_bytes(), before);
}

}  // namespace
}  // namespace carousel
