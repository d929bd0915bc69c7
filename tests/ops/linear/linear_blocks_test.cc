// SPDX-License-Identifier: Apache-2.0
// Weights in GGUF's blocks with several scales: panels give the decoded values back bit for bit, in no more bytes; and
// products agree with f64 of those values and the rounded x, each row whatever is beside it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/ops/linear/feed_forward.h"
#include "carousel/ops/linear/linear.h"
#include "tests/isas.h"
#include "tests/ops/drawn.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

constexpr DType kTypes[] = {DType::kQ41, DType::kQ50, DType::kQ51, DType::kQ2K,   DType::kQ3K,
                            DType::kQ4K, DType::kQ5K, DType::kQ6K, DType::kIQ4NL, DType::kIQ4XS};

/// Rows of blocks at an odd address: every bit is drawn but those of d and dmin, which are finite. Or, with `filled`,
/// all bytes but those have that value.
struct Rows {
  Rows(int64_t rows, int64_t cols, DType dtype, uint64_t seed, std::optional<std::byte> filled = {})
      : row_bytes(dtype_bytes(dtype, static_cast<size_t>(cols))),
        buffer(1 + static_cast<size_t>(rows) * row_bytes),
        values(static_cast<size_t>(rows * cols)) {
    Rng rng(seed, static_cast<uint64_t>(dtype));
    for (std::byte& byte : buffer) byte = filled.value_or(static_cast<std::byte>(rng.bits() >> 24));
    const BlockForm& form = block_form(dtype);
    const size_t block_bytes = dtype_bytes(dtype, block_values(dtype));
    for (size_t block = 1; block < buffer.size(); block += block_bytes) {
      for (size_t s = 0; s < form.scales; ++s) {
        const F16 scale = to_f16(static_cast<float>(0.01 * rng.normal()));
        std::memcpy(buffer.data() + block + form.scale + 2 * s, &scale, sizeof scale);
      }
    }
    for (int64_t r = 0; r < rows; ++r) widen(at(r), dtype, values.data() + r * cols, static_cast<size_t>(cols));
  }
  const std::byte* at(int64_t row) const { return buffer.data() + 1 + static_cast<size_t>(row) * row_bytes; }

  size_t row_bytes;
  std::vector<std::byte> buffer;
  std::vector<float> values;  // decoded
};

Weight packed(const Stream& stream, const Rows& rows, int64_t M, int64_t K, DType dtype) {
  Weight weight(M, K, dtype, Weight::Layout::kPanels);
  weight.write_rows(stream, 0, M, rows.at(0));
  return weight;
}

/// What these products make of a row of x. Types of four bits and fewer round to multiples of a power of two.
std::vector<float> rounded_row(const float* x, int64_t K, DType dtype) {
  const bool peaks = dtype == DType::kQ50 || dtype == DType::kQ51 || dtype == DType::kQ5K || dtype == DType::kQ6K ||
                     dtype == DType::kQ8;
  std::vector<float> out(static_cast<size_t>(K));
  for (int64_t begin = 0; begin < K; begin += 32) {
    const int64_t end = std::min(begin + 32, K);
    float peak = 0, power = 0x1p-120f;
    for (int64_t k = begin; k < end; ++k) peak = std::max(peak, std::abs(x[k]));
    if (peak == 0) continue;
    while (peak > 127 * power) power *= 2;
    const float scale = peaks ? peak / 127.0f : power, inverse = peaks ? 127.0f / peak : 1 / power;
    for (int64_t k = begin; k < end; ++k) out[static_cast<size_t>(k)] = std::nearbyint(x[k] * inverse) * scale;
  }
  return out;
}

TEST(LinearBlocks, PanelsGiveTheDecodedValuesBackBitForBit) {
  ThreadPool pool(3);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  for (const DType dtype : kTypes) {
    const auto block = static_cast<int64_t>(block_values(dtype));
    for (const int64_t K : {block, 3 * block, 2 * block - 5, int64_t{7}}) {
      for (const int64_t M : {1, 3, 32, 37, 70}) {
        const Rows rows(M, K, dtype, static_cast<uint64_t>(M * 1000 + K));
        for (const Weight::Layout layout : {Weight::Layout::kPanels, Weight::Layout::kRows}) {
          Weight weight(M, K, dtype, layout);
          const int64_t cut = M / 2;  // a piece may begin within a panel
          weight.write_rows(stream, 0, cut, rows.at(0));
          weight.write_rows(stream, cut, M - cut, rows.at(cut));
          std::vector<float> read(rows.values.size());
          weight.read_rows(0, M, read.data());
          EXPECT_TRUE(same_bits(read.data(), rows.values.data(), M * K)) << dtype_name(dtype) << " " << M << " " << K;
          if (M % 32 != 0) continue;
          EXPECT_EQ(weight.size_bytes(), static_cast<size_t>(M) * rows.row_bytes);
        }
      }
    }
  }
}

/// y [N, M] is what f64 makes of the decoded weights and the rounded x [N, K].
void expect_products(const Tensor& y, const Tensor& x, const Rows& rows, DType dtype, const std::string& where) {
  const int64_t N = x.dim(0), K = x.dim(1), M = y.dim(1);
  for (int64_t n = 0; n < N; ++n) {
    const std::vector<float> row = rounded_row(x.f32() + n * K, K, dtype);
    for (int64_t m = 0; m < M; ++m) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double w = rows.values[static_cast<size_t>(m * K + k)], term = w * row[static_cast<size_t>(k)];
        sum += term;
        size += std::abs(term) + 4 * std::abs(double{row[static_cast<size_t>(k)]});  // a minimum may cancel
      }
      ASSERT_NEAR(double{y.f32()[n * M + m]}, sum, 2e-6 * size)
          << where << " " << dtype_name(dtype) << " K " << K << " N " << N << " n " << n;
    }
  }
}

// 1280 columns are five units of 256, and more than a slab of columns; 75 rows are more than any tile takes.
TEST(LinearBlocks, AgreeWithF64OfTheRoundedX) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 3);
    for (const DType dtype : kTypes) {
      for (const auto& [M, K] : {std::pair<int64_t, int64_t>{70, 1280}, {33, 256}, {5, 96}}) {
        const Rows rows(M, K, dtype, 3);
        const Weight weight = packed(machine.stream, rows, M, K, dtype);
        for (const int64_t N : {1, 2, 7, 75}) {
          const Tensor x = tensor_of(normals(N * K, 7), {N, K});
          const Tensor y = ops::linear(machine.ctx, x, {&weight});
          expect_products(y, x, rows, dtype, std::string(cpu::isa_name(isa)));
        }
      }
    }
  }
}

// Sums of the largest codes of both fit where a set adds them in 16 bits: all bits of the weights are set, or none, and
// all codes of x are 127, -127 or both in turns.
TEST(LinearBlocks, TheLargestSumsFit) {
  constexpr int64_t M = 33, K = 512, N = 8;
  const auto value = [](int64_t n, int64_t k) {
    return (n % 3 == 0 || (n % 3 == 2 && k % 2 == 0) ? 127.0f : -127.0f) / 64;
  };
  std::vector<float> values(N * K);
  for (int64_t i = 0; i < N * K; ++i) values[static_cast<size_t>(i)] = value(i / K, i % K);
  const Tensor x = tensor_of(values, {N, K});
  std::vector<DType> types(std::begin(kTypes), std::end(kTypes));
  types.push_back(DType::kQ8);
  types.push_back(DType::kQ4);
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    for (const DType dtype : types) {
      for (const int byte : {0, 0x7F, 0x80, 0xFF}) {
        const Rows rows(M, K, dtype, 3, static_cast<std::byte>(byte));
        const Weight weight = packed(machine.stream, rows, M, K, dtype);
        for (const int64_t count : {int64_t{1}, N}) {
          const Tensor some = x.rows(0, count);
          const Tensor y = ops::linear(machine.ctx, some, {&weight});
          expect_products(y, some, rows, dtype, std::string(cpu::isa_name(isa)) + " byte " + std::to_string(byte));
        }
      }
    }
  }
}

// One block of rows multiplies packed codes, more multiply widened ones, mapped rows are packed piece by piece.
TEST(LinearBlocks, ARowsBitsDependOnTheRowAlone) {
  constexpr int64_t M = 70, K = 1280, N = 300;
  const Tensor x = tensor_of(normals(N * K, 9), {N, K});
  for (const Isa isa : tested_isas()) {
    Machine one(isa, 1), three(isa, 3);
    for (const DType dtype : kTypes) {
      const Rows rows(M, K, dtype, 5);
      const Weight weight = packed(three.stream, rows, M, K, dtype);
      const Weight mapped = Weight::over(nullptr, rows.at(0), M, K, dtype);
      const Tensor all = ops::linear(three.ctx, x, {&weight});
      SCOPED_TRACE(testing::Message() << cpu::isa_name(isa) << " " << dtype_name(dtype));
      EXPECT_TRUE(same_bits(all, ops::linear(one.ctx, x, {&weight})));
      EXPECT_TRUE(same_bits(all, ops::linear(three.ctx, x, {&mapped})));
      for (const int64_t count : {1, 3, 6, 7, 64}) {
        const Tensor part = ops::linear(three.ctx, x.rows(17, 17 + count), {&weight});
        EXPECT_TRUE(same_bits(part.f32(), all.f32() + 17 * M, count * M)) << count;
      }
    }
  }
}

TEST(LinearBlocks, SetsWithFusedMultiplyAddsGiveTheSameBits) {
  constexpr int64_t M = 40, K = 512, N = 9;
  for (const DType dtype : kTypes) {
    const Rows rows(M, K, dtype, 5);
    std::vector<Tensor> results;
    for (const Isa isa : tested_isas()) {
      if (isa == Isa::kPortable) continue;
      Machine machine(isa, 2);
      const Weight weight = packed(machine.stream, rows, M, K, dtype);
      results.push_back(ops::linear(machine.ctx, tensor_of(normals(N * K, 3), {N, K}), {&weight}).clone());
    }
    for (const Tensor& result : results) EXPECT_TRUE(same_bits(result, results[0])) << dtype_name(dtype);
  }
}

// As in Q4_K_M: one call has several types, and a feed-forward network's last matrix another one than the first two.
TEST(LinearBlocks, TypesMixInOneCallAndInAFeedForwardNetwork) {
  constexpr int64_t D = 512, F = 256, M = 33;
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 3);
    Ctx& ctx = machine.ctx;
    const Weight gate = packed(ctx.stream, Rows(F, D, DType::kQ4K, 1), F, D, DType::kQ4K),
                 up = packed(ctx.stream, Rows(F, D, DType::kQ4K, 2), F, D, DType::kQ4K),
                 down = packed(ctx.stream, Rows(M, F, DType::kQ6K, 3), M, F, DType::kQ6K),
                 other = packed(ctx.stream, Rows(M, D, DType::kQ6K, 4), M, D, DType::kQ6K);
    for (const int64_t N : {1, 9, 300}) {
      const Tensor x = tensor_of(normals(N * D, 5), {N, D});
      const Tensor both = ops::linear(ctx, x, {&gate, &other}), first = ops::linear(ctx, x, {&gate}),
                   second = ops::linear(ctx, x, {&other});
      for (int64_t n = 0; n < N; ++n) {
        EXPECT_TRUE(same_bits(both.f32() + n * (F + M), first.f32() + n * F, F));
        EXPECT_TRUE(same_bits(both.f32() + n * (F + M) + F, second.f32() + n * M, M));
      }
      const ops::Activation silu = ops::Activation::kSilu;
      const Tensor units = ops::gated_unit(ctx, ops::linear(ctx, x, {&gate, &up}), silu);
      EXPECT_TRUE(same_bits(ops::feed_forward(ctx, x, gate, up, down, silu), ops::linear(ctx, units, {&down})));
    }
  }
}

TEST(LinearBlocks, ARowThatIsNotFiniteIsNanAlone) {
  constexpr int64_t M = 5, K = 256, N = 9;
  for (const Isa isa : tested_isas()) {
    Machine machine(isa, 2);
    for (const DType dtype : kTypes) {
      const Weight weight = packed(machine.stream, Rows(M, K, dtype, 1), M, K, dtype);
      for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        Tensor x = tensor_of(normals(N * K, 5), {N, K});
        const Tensor good = ops::linear(machine.ctx, x, {&weight}).clone();
        x.f32()[4 * K + 70] = bad;
        const Tensor y = ops::linear(machine.ctx, x, {&weight});
        for (int64_t m = 0; m < M; ++m) EXPECT_TRUE(std::isnan(y.f32()[4 * M + m])) << dtype_name(dtype);
        EXPECT_TRUE(same_bits(y.f32(), good.f32(), 4 * M));
        EXPECT_TRUE(same_bits(y.f32() + 5 * M, good.f32() + 5 * M, 4 * M));
      }
    }
  }
}

TEST(LinearBlocks, MasksAreRefused) {
  const MatrixMask mask(4, 256, false, std::vector<int8_t>(4 * 256, 1));
  for (const DType dtype : kTypes) EXPECT_THROW(Weight(mask, dtype), Error) << dtype_name(dtype);
}

}  // namespace
}  // namespace carousel
