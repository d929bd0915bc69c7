// SPDX-License-Identifier: Apache-2.0
// ops::linear against a product in f64 with its rounding bound, and its promise: a row's bits depend on nothing but
// the row, whatever the batch, the threads or the other weights of the call.
#include "carousel/ops/linear/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"
#include "tests/isas.h"
#include "tests/ops/drawn.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr DType kBlocks[] = {DType::kQ8, DType::kQ4};
constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4};

/// A weight and its exact values, row-major.
struct Case {
  Weight weight;              // [M, K]
  std::vector<float> values;  // [M, K], after rounding to the weight's dtype
};

Case make_case(const Stream& stream, int64_t M, int64_t K, DType dtype, bool bias, uint64_t seed) {
  Case c;
  const std::vector<float> exact = normals(M * K, seed);
  c.weight = Weight(M, K, dtype, Weight::Layout::kPanels, *stream.memory);
  c.weight.write_rows(stream, 0, M, exact.data(), DType::kF32);
  c.values.resize(exact.size());
  c.weight.read_rows(0, M, c.values.data());
  if (bias) c.weight.bias = tensor_of(normals(M, seed + 1), {M}).to(*stream.memory);
  return c;
}

/// Every element of columns first_col.. of y against f64. A chain of K fused multiply-adds and one addition errs by at
/// most (K + 1) half-ulps of the sum of magnitudes; the portable build rounds products too, hence 2 K + 1.
void expect_product(const Tensor& y, int64_t first_col, const Tensor& x, const Case& c) {
  const int64_t N = x.dim(0), K = x.dim(1), M = c.weight.rows();
  const Tensor bias = c.weight.bias.defined() ? c.weight.bias.to_host() : Tensor();
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < M; ++m) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double term = double{x.f32()[n * K + k]} * double{c.values[static_cast<size_t>(m * K + k)]};
        sum += term;
        magnitude += std::abs(term);
      }
      if (bias.defined()) {
        sum += double{bias.f32()[m]};
        magnitude += std::abs(double{bias.f32()[m]});
      }
      const double bound = (2.0 * static_cast<double>(K) + 1) * 0x1p-24 * magnitude;
      ASSERT_NEAR(double{y.f32()[n * y.dim(1) + first_col + m]}, sum, bound) << "n " << n << " m " << m;
    }
  }
}

/// Whether a row of y is what it is beside other rows: bit for bit on the host. On a GPU the number of rows chooses the
/// kernel, and the order of a sum of K products with it, which errs by some 2^-24 of their magnitudes.
bool alike(const Target& target, const float* a, const float* b, int64_t count) {
  if (target.on_host()) return same_bits(a, b, count);
  return relative_error(a, std::vector<double>(b, b + count)) < 1e-6;
}

/// What a product with a block weight makes of a row of x: in every 32 columns, integers up to 127 times a scale,
/// before q4 a power of two.
std::vector<float> rounded_row(const float* x, int64_t K, DType dtype) {
  std::vector<float> out(static_cast<size_t>(K));
  for (int64_t begin = 0; begin < K; begin += 32) {
    const int64_t end = std::min(begin + 32, K);
    float peak = 0;
    for (int64_t k = begin; k < end; ++k) peak = std::max(peak, std::abs(x[k]));
    if (peak == 0) continue;
    float power = 0x1p-120f;
    while (peak > 127 * power) power *= 2;
    const float scale = dtype == DType::kQ4 ? power : peak / 127.0f;
    const float inverse = dtype == DType::kQ4 ? 1 / power : 127.0f / peak;
    for (int64_t k = begin; k < end; ++k) out[static_cast<size_t>(k)] = std::nearbyint(x[k] * inverse) * scale;
  }
  return out;
}

TEST(Linear, EachTypeOfBlocksRoundsXItsOwnWay) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const Case q8 = make_case(ctx.stream, 40, 96, DType::kQ8, false, 5),
               q4 = make_case(ctx.stream, 33, 96, DType::kQ4, true, 6);
    for (const int64_t N : {1, 7}) {
      const Tensor x = tensor_of(normals(N * 96, 7), {N, 96});
      const Tensor both = ops::linear(ctx, x, {&q8.weight, &q4.weight, &q8.weight});
      const Tensor first = ops::linear(ctx, x, {&q8.weight}), second = ops::linear(ctx, x, {&q4.weight});
      for (int64_t n = 0; n < N; ++n) {
        const float* const row = both.f32() + n * both.dim(1);
        EXPECT_TRUE(same_bits(row, first.f32() + n * 40, 40));
        EXPECT_TRUE(same_bits(row + 40, second.f32() + n * 33, 33));
        EXPECT_TRUE(same_bits(row + 73, first.f32() + n * 40, 40));
      }
    }
  }
}

TEST(Linear, BlockWeightsTakeXOf127StepsAsItIs) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kBlocks) {
      const Case c = make_case(ctx.stream, 40, 96, dtype, false, 5);
      for (const int64_t N : {1, 7}) {
        Tensor x({N, 96}, DType::kF32);
        for (int64_t i = 0; i < x.count(); ++i) {
          const int64_t step = i % 32 == 0 ? 127 : i * 37 % 255 - 127;
          x.f32()[i] = static_cast<float>(step) * (i / 32 % 2 == 0 ? 0x1p-30f : 0x1p20f);
        }
        SCOPED_TRACE(::testing::Message() << cpu::isa_name(isa) << " " << dtype_name(dtype) << " N " << N);
        ASSERT_NO_FATAL_FAILURE(expect_product(ops::linear(ctx, x, {&c.weight}), 0, x, c));
      }
    }
  }
}

// Kernels of the host round x before block weights. On a GPU it is taken as it is.
TEST(Linear, BlockWeightsAgreeWithF64OfTheRoundedX) {
  for (const Target& target : targets()) {
    Machine machine(target, 3);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kBlocks) {
      for (const int64_t K : {1, 5, 31, 32, 33, 96, 515, 1100}) {
        for (const int64_t M : {1, 5, 32, 33, 100}) {
          const Case c = make_case(ctx.stream, M, K, dtype, M % 2 == 1, static_cast<uint64_t>(K * 1000 + M));
          for (const int64_t N : {1, 2, 3, 7, 13, 64, 100}) {
            SCOPED_TRACE(::testing::Message()
                         << target << " " << dtype_name(dtype) << " K " << K << " M " << M << " N " << N);
            const Tensor x = tensor_of(normals(N * K, 7), {N, K});
            const Tensor y = ops::linear(ctx, machine.on(x), {&c.weight}).to_host();
            Tensor rounded = x.clone();
            for (int64_t n = 0; target.on_host() && n < N; ++n) {
              const std::vector<float> row = rounded_row(x.f32() + n * K, K, dtype);
              std::copy(row.begin(), row.end(), rounded.f32() + n * K);
            }
            ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, rounded, c));
          }
        }
      }
    }
  }
}

// The chain is over blocks: every instruction set with fused multiply-adds gives the same bits.
TEST(Linear, BlockWeightsGiveTheSameBitsWithAvx2AndAvx512) {
  std::vector<Tensor> results;
  for (const Isa isa : tested_isas()) {
    if (isa == Isa::kPortable) continue;
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const Case a = make_case(ctx.stream, 70, 300, DType::kQ8, true, 1),
               b = make_case(ctx.stream, 70, 300, DType::kQ4, true, 2);
    results.push_back(ops::linear(ctx, tensor_of(normals(9 * 300, 3), {9, 300}), {&a.weight, &b.weight}).clone());
  }
  for (const Tensor& result : results) EXPECT_TRUE(same_bits(result.f32(), results[0].f32(), result.count()));
}

TEST(Linear, ComputingInBf16RoundsXBeforeBf16WeightsAlone) {
  for (const Target& target : targets()) {
    Machine machine(target, 3);
    machine.stream.compute = Compute::kBF16;
    const Stream& stream = machine.stream;
    Ctx& ctx = machine.ctx;
    for (const int64_t K : {1, 2, 3, 33, 515, 1100}) {
      const Case bf16 = make_case(stream, 45, K, DType::kBF16, true, 1);
      const Case f32 = make_case(stream, 33, K, DType::kF32, false, 2);
      for (const int64_t N : {1, 2, 7, 13, 64, 100}) {
        SCOPED_TRACE(::testing::Message() << target << " K " << K << " N " << N);
        const Tensor x = tensor_of(normals(N * K, 7), {N, K});
        Tensor rounded({N, K}, DType::kF32);
        for (int64_t i = 0; i < N * K; ++i) rounded.f32()[i] = to_float(to_bf16(x.f32()[i]));
        const Tensor y = ops::linear(ctx, machine.on(x), {&bf16.weight, &f32.weight}).to_host();
        ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, rounded, bf16));
        ASSERT_NO_FATAL_FAILURE(expect_product(y, 45, x, f32));
        for (const int64_t n : {int64_t{0}, N / 2, N - 1}) {
          const Tensor alone = ops::linear(ctx, machine.on(x.rows(n, n + 1)), {&bf16.weight, &f32.weight}).to_host();
          ASSERT_TRUE(alike(target, alone.f32(), y.f32() + n * 78, 78)) << "row " << n;
        }
      }
    }
  }
}

TEST(Linear, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target, 3);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kFloats) {
      for (const int64_t K : {1, 2, 3, 17, 255, 256, 515}) {
        for (const int64_t M : {1, 5, 32, 33, 100}) {
          const Case c = make_case(ctx.stream, M, K, dtype, M % 2 == 1, static_cast<uint64_t>(K * 1000 + M));
          for (const int64_t N : {1, 2, 3, 7, 13, 64, 100}) {
            SCOPED_TRACE(::testing::Message()
                         << target << " " << dtype_name(dtype) << " K " << K << " M " << M << " N " << N);
            const Tensor x = tensor_of(normals(N * K, 7), {N, K});
            const Tensor y = ops::linear(ctx, machine.on(x), {&c.weight}).to_host();
            ASSERT_EQ(y.shape(), (Shape{N, M}));
            ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, x, c));
          }
        }
      }
    }
  }
}

TEST(Linear, WeightsOfOneCallStandSideBySide) {
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    Ctx& ctx = machine.ctx;
    const int64_t K = 67;
    const Case a = make_case(ctx.stream, 40, K, DType::kBF16, true, 1);
    const Case b = make_case(ctx.stream, 3, K, DType::kF32, false, 2);
    const Case c = make_case(ctx.stream, 65, K, DType::kF16, true, 3);
    for (const int64_t N : {1, 2, 30, 200}) {
      const Tensor x = tensor_of(normals(N * K, 4), {N, K});
      const Tensor y = ops::linear(ctx, machine.on(x), {&a.weight, &b.weight, &c.weight}).to_host();
      ASSERT_EQ(y.shape(), (Shape{N, 108}));
      ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, x, a));
      ASSERT_NO_FATAL_FAILURE(expect_product(y, 40, x, b));
      ASSERT_NO_FATAL_FAILURE(expect_product(y, 43, x, c));
    }
  }
}

// With 2048 columns a GPU gives the few rows of floats to the launch of blocks.
TEST(Linear, BlockWeightsStandBesideFloats) {
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    Ctx& ctx = machine.ctx;
    for (const int64_t K : {67, 2048}) {
      std::vector<Case> cases;
      uint64_t seed = 1;
      for (const DType dtype : {DType::kQ4, DType::kF32, DType::kQ8, DType::kBF16})
        cases.push_back(make_case(ctx.stream, 40, K, dtype, seed % 2 == 1, seed)), ++seed;
      for (const int64_t N : {1, 2, 3, 30, 200}) {
        const Tensor x = tensor_of(normals(N * K, 4), {N, K});
        const Tensor y =
            ops::linear(ctx, machine.on(x), {&cases[0].weight, &cases[1].weight, &cases[2].weight, &cases[3].weight})
                .to_host();
        for (size_t i = 0; i < cases.size(); ++i) {
          const Tensor one = ops::linear(ctx, machine.on(x), {&cases[i].weight}).to_host();
          for (int64_t n = 0; n < N; ++n) {
            ASSERT_TRUE(same_bits(y.f32() + n * 160 + static_cast<int64_t>(i) * 40, one.f32() + n * 40, 40))
                << "weight " << i << " K " << K << " N " << N;
          }
        }
      }
    }
  }
}

// 1100 rows cross the slabs of x, 600 columns those of k.
TEST(Linear, RowAloneHasTheBitsItHasInABatch) {
  for (const Target& target : targets()) {
    Machine machine(target, 4);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : kDTypes) {
      for (const int64_t K : {3, 255, 600}) {
        const int64_t M = 100;
        const Case c = make_case(ctx.stream, M, K, dtype, true, 11);
        const Tensor x = tensor_of(normals(1100 * K, 12), {1100, K});
        const Tensor all = ops::linear(ctx, machine.on(x), {&c.weight}).to_host();
        for (const int64_t n : {0, 1, 5, 511, 512, 1099}) {
          const Tensor alone = ops::linear(ctx, machine.on(x.rows(n, n + 1)), {&c.weight}).to_host();
          EXPECT_TRUE(alike(target, alone.f32(), all.f32() + n * M, M)) << target << " K " << K << " n " << n;
        }
        for (const int64_t N : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 64, 65, 100, 513}) {
          const Tensor some = ops::linear(ctx, machine.on(x.rows(17, 17 + N)), {&c.weight}).to_host();
          EXPECT_TRUE(alike(target, some.f32(), all.f32() + 17 * M, N * M))
              << target << " " << dtype_name(dtype) << " K " << K << " N " << N;
        }
      }
    }
  }
}

// Rows of whole pieces, of more columns than x has in shared memory at once, for few outputs and for many.
TEST(Linear, StreamsOnAGpuGiveTheBitsOfThePlainOnes) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;  // there is one way on a CPU
    Machine machine(target, 2);
    auto& gpu = static_cast<cuda::Gpu&>(machine.memory());
    for (const DType dtype : kDTypes) {
      for (const auto& [M, K] : {std::pair<int64_t, int64_t>{37, 96}, {130, 2048}, {9000, 256}, {40, 17440}}) {
        const Case c = make_case(machine.stream, M, K, dtype, true, 51);
        for (const int64_t N : {1, 2, 3, 4, 5, 8}) {
          const Tensor x = machine.on(tensor_of(normals(N * K, 52), {N, K}));
          const Tensor fast = ops::linear(machine.ctx, x, {&c.weight}).to_host();
          gpu.run_plain(static_cast<uint32_t>(cuda::Fast::kStream));
          const Tensor plain = ops::linear(machine.ctx, x, {&c.weight}).to_host();
          gpu.run_plain(0);
          SCOPED_TRACE(::testing::Message() << dtype_name(dtype) << " M " << M << " K " << K << " N " << N);
          if (is_block(dtype)) {  // a block's numbers are summed before they are scaled
            EXPECT_TRUE(alike(target, fast.f32(), plain.f32(), N * M));
          } else {
            EXPECT_TRUE(same_bits(fast, plain));
          }
        }
      }
    }
  }
}

// Where a stream computes in bf16, a GPU rounds few rows to 8 bits as the host does before q8, and multiplies integers.
TEST(Linear, FewRowsBeforeBlocksInBf16AreRoundedTo8Bits) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target, 2);
    machine.stream.compute = Compute::kBF16;
    for (const DType dtype : kBlocks) {
      for (const auto& [M, K] :
           {std::pair<int64_t, int64_t>{130, 2048}, {9000, 256}, {40, 17440}, {700, 608}, {130, 2056}}) {
        const Case c = make_case(machine.stream, M, K, dtype, true, 53);
        for (const int64_t N : {1, 2, 3, 4, 5, 8}) {
          SCOPED_TRACE(::testing::Message() << dtype_name(dtype) << " M " << M << " K " << K << " N " << N);
          const Tensor x = tensor_of(normals(N * K, 54), {N, K});
          std::fill(x.f32(), x.f32() + 32, 0.0f);  // a block without a scale
          Tensor rounded = x.clone();
          for (int64_t n = 0; n < N; ++n) {
            const std::vector<float> row = rounded_row(x.f32() + n * K, K, DType::kQ8);
            std::copy(row.begin(), row.end(), rounded.f32() + n * K);
          }
          const Tensor y = ops::linear(machine.ctx, machine.on(x), {&c.weight}).to_host();
          ASSERT_NO_FATAL_FAILURE(expect_product(y, 0, rounded, c));
          const Tensor last = ops::linear(machine.ctx, machine.on(x.rows(N - 1, N)), {&c.weight}).to_host();
          EXPECT_TRUE(same_bits(last.f32(), y.f32() + (N - 1) * M, M));
          auto& gpu = static_cast<cuda::Gpu&>(machine.memory());
          gpu.run_plain(static_cast<uint32_t>(cuda::Fast::kStream));
          const Tensor plain = ops::linear(machine.ctx, machine.on(x), {&c.weight}).to_host();
          gpu.run_plain(0);
          EXPECT_TRUE(alike(target, y.f32(), plain.f32(), N * M));
        }
      }
    }
  }
}

// With many rows cuBLASLt takes blocks widened to bf16, and x rounded to it.
TEST(Linear, ManyRowsOfBlocksInBf16AreWithinItsRounding) {
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    machine.stream.compute = Compute::kBF16;
    for (const DType dtype : kBlocks) {
      const int64_t N = 65, K = 512, M = 200;
      const Case c = make_case(machine.stream, M, K, dtype, true, 61);
      const Tensor x = tensor_of(normals(N * K, 62), {N, K});
      const Tensor y = ops::linear(machine.ctx, machine.on(x), {&c.weight}).to_host(), bias = c.weight.bias.to_host();
      std::vector<double> expected;
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t m = 0; m < M; ++m) {
          double sum = double{bias.f32()[m]};
          for (int64_t k = 0; k < K; ++k) {
            sum += double{x.f32()[n * K + k]} * double{c.values[static_cast<size_t>(m * K + k)]};
          }
          expected.push_back(sum);
        }
      }
      // Both factors round by 2^-9 / sqrt 3 in the mean; x of the host's kernels by some 2^-8.
      EXPECT_LT(relative_error(y.f32(), expected), 1e-2) << target << " " << dtype_name(dtype);
    }
  }
}

TEST(Linear, ThreadsChangeNoBit) {
  ThreadPool one(1), two(2), four(4);
  for (const Isa isa : tested_isas()) {
    for (const int64_t N : {1, 7, 100}) {
      const int64_t K = 300, M = 517;
      Arena arena;
      const Stream stream{&Memory::host(), isa, &one};
      Ctx ctx{stream, arena};
      for (const DType dtype : {DType::kBF16, DType::kQ8, DType::kQ4}) {
        const Case c = make_case(stream, M, K, dtype, true, 21);
        const Tensor x = tensor_of(normals(N * K, 22), {N, K});
        const Tensor y = ops::linear(ctx, x, {&c.weight});
        for (ThreadPool* pool : {&two, &four}) {
          const Stream other{&Memory::host(), isa, pool};
          Ctx other_ctx{other, arena};
          const Tensor z = ops::linear(other_ctx, x, {&c.weight});
          EXPECT_TRUE(same_bits(y.f32(), z.f32(), N * M));
        }
      }
    }
  }
}

// Rows in others' memory, at an odd address, are packed piece by piece: the bits are those of panels.
TEST(Linear, WeightsInPlaceGiveTheSameBits) {
  ThreadPool pool(2);
  for (const Isa isa : tested_isas()) {
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      const Stream stream{&Memory::host(), isa, &pool, compute};
      Arena arena;
      Ctx ctx{stream, arena};
      for (const DType dtype : kDTypes) {
        for (const int64_t K : {1, 33, 96, 2051}) {
          const int64_t M = K == 2051 ? 1100 : 70;  // f32: several pieces
          if (is_block(dtype) && K % 32 != 0) continue;
          const size_t row_bytes = dtype_bytes(dtype, static_cast<size_t>(K));
          std::vector<std::byte> rows(1 + static_cast<size_t>(M) * row_bytes);
          const std::vector<float> values = normals(M * K, 5);
          for (int64_t r = 0; r < M; ++r) {
            narrow(values.data() + r * K, dtype, rows.data() + 1 + static_cast<size_t>(r) * row_bytes,
                   static_cast<size_t>(K));
          }
          Case c = make_case(stream, M, K, dtype, true, 3), other = make_case(stream, 40, K, DType::kF32, false, 4);
          c.weight.write_rows(stream, 0, M, rows.data() + 1);
          Weight in_place = Weight::over(nullptr, rows.data() + 1, M, K, dtype);
          in_place.bias = c.weight.bias;
          for (const int64_t N : {1, 2, 70}) {
            const Tensor x = tensor_of(normals(N * K, 6), {N, K});
            const Tensor y = ops::linear(ctx, x, {&c.weight, &other.weight, &c.weight});
            const Tensor z = ops::linear(ctx, x, {&in_place, &other.weight, &in_place});
            EXPECT_TRUE(same_bits(y.f32(), z.f32(), y.count()))
                << cpu::isa_name(isa) << " " << dtype_name(dtype) << " K " << K << " N " << N;
          }
        }
      }
    }
  }
}

TEST(Linear, NeighboursCannotReachARow) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    Ctx& ctx = machine.ctx;
    const int64_t N = 13, K = 33, M = 35;  // odd K: the padding column of bf16; odd M: the padding rows of a panel
    for (const DType dtype : {DType::kBF16, DType::kQ8, DType::kQ4}) {
      const Case c = make_case(ctx.stream, M, K, dtype, false, 31);
      std::vector<float> values = normals(N * K, 32);
      for (int64_t k = 0; k < K; ++k) values[static_cast<size_t>(4 * K + k)] = nan;
      values[static_cast<size_t>(6 * K + 32)] = nan;  // one value of the row's last block
      const Tensor y = ops::linear(ctx, tensor_of(values, {N, K}), {&c.weight});
      for (int64_t i = 0; i < N * M; ++i) EXPECT_EQ(std::isnan(y.f32()[i]), i / M == 4 || i / M == 6);
    }
  }
}

TEST(Linear, SpecialWeightsWidenExactly) {
  const float inf = std::numeric_limits<float>::infinity();
  const float values[] = {0x1p-24f, -0x1p-24f, 0x1.8p-15f, 65504.0f, inf, -inf, -0.0f, 1.0f};
  for (const Target& target : targets()) {
    Machine machine(target, 1);
    Ctx& ctx = machine.ctx;
    uint16_t halves[8];
    narrow(values, DType::kF16, halves, 8);
    Weight weight(8, 1, DType::kF16, Weight::Layout::kPanels, machine.memory());
    weight.write_rows(ctx.stream, 0, 8, halves);
    const Tensor y = ops::linear(ctx, machine.on(tensor_of({1.0f}, {1, 1})), {&weight}).to_host();
    for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(y.f32()[i], values[i]) << target << " " << i;
  }
}

TEST(Linear, SteadyStateAllocatesNothing) {
  Machine machine(cpu::best_isa(), 2);
  Ctx& ctx = machine.ctx;
  const Case c = make_case(ctx.stream, 64, 64, DType::kF32, false, 41);
  const Tensor x = tensor_of(normals(8 * 64, 42), {8, 64});
  ops::linear(ctx, x, {&c.weight});
  const size_t size_bytes = ctx.arena.size_bytes();
  for (int i = 0; i < 10; ++i) ops::linear(ctx, x, {&c.weight});
  EXPECT_EQ(ctx.arena.size_bytes(), size_bytes);
}

TEST(Linear, RefusesWrongShapes) {
  Machine machine(cpu::best_isa(), 1);
  Ctx& ctx = machine.ctx;
  const Weight weight(8, 16, DType::kF32, Weight::Layout::kPanels);
  const Weight rows(8, 16, DType::kF32, Weight::Layout::kRows);
  const Weight empty;
  const Tensor x({2, 16}, DType::kF32);
  EXPECT_THROW(ops::linear(ctx, Tensor({2, 15}, DType::kF32), {&weight}), Error);
  EXPECT_THROW(ops::linear(ctx, Tensor({32}, DType::kF32), {&weight}), Error);
  EXPECT_THROW(ops::linear(ctx, Tensor({2, 16}, DType::kI32), {&weight}), Error);
  EXPECT_THROW(ops::linear(ctx, x, {&rows}), Error);
  EXPECT_THROW(ops::linear(ctx, x, {&empty}), Error);
  EXPECT_THROW(ops::linear(ctx, x, {}), Error);
  EXPECT_EQ(ops::linear(ctx, Tensor({0, 16}, DType::kF32), {&weight}).shape(), (Shape{0, 8}));
}

}  // namespace
}  // namespace carousel
