// SPDX-License-Identifier: Apache-2.0
// Blocks against their definition, and their error against the plain encodings of GGUF, written out here.
#include "carousel/core/quant_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/finite.h"
#include "carousel/core/rng.h"

namespace carousel {
namespace {

constexpr DType kBlockTypes[] = {DType::kQ8, DType::kQ4};

/// Blocks that differ in kind: normal, uniform, one large value, tiny, constant, few levels.
std::vector<float> mixed_values(size_t blocks) {
  Rng rng(3);
  std::vector<float> values(blocks * kBlockValues);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t kind = i / kBlockValues % 6;
    double value = rng.normal();
    if (kind == 1) value = rng.uniform() - 0.3;
    if (kind == 2 && i % kBlockValues == 5) value *= 40;
    if (kind == 3) value *= 1e-6;
    if (kind == 4) value = 0.37;
    if (kind == 5) value = std::round(value);
    values[i] = static_cast<float>(value);
  }
  return values;
}

std::vector<float> through(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> blocks(dtype_bytes(dtype, values.size()));
  encode_blocks(values.data(), dtype, blocks.data(), values.size());
  std::vector<float> out(values.size());
  decode_blocks(blocks.data(), dtype, out.data(), out.size());
  return out;
}

double squared_error(const float* a, const float* b) {
  double sum = 0;
  for (size_t i = 0; i < kBlockValues; ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}

/// Q4_0 as GGUF files are written: the largest value becomes code 0, the rest are rounded half up.
void plain_q4(const float* x, float* out) {
  float peak = 0;
  for (size_t i = 0; i < kBlockValues; ++i) peak = std::abs(x[i]) > std::abs(peak) ? x[i] : peak;
  const float d = peak / -8, stored = to_float(to_f16(d));
  for (size_t i = 0; i < kBlockValues; ++i) {
    const float scaled = d == 0 ? 0 : x[i] / d;
    out[i] = stored * static_cast<float>(std::min(15, static_cast<int>(scaled + 8.5f)) - 8);
  }
}

/// Q8_0 likewise.
void plain_q8(const float* x, float* out) {
  float peak = 0;
  for (size_t i = 0; i < kBlockValues; ++i) peak = std::max(peak, std::abs(x[i]));
  const float d = peak / 127, stored = to_float(to_f16(d));
  for (size_t i = 0; i < kBlockValues; ++i) out[i] = stored * (d == 0 ? 0 : std::round(x[i] / d));
}

TEST(QuantBlocks, DecodesTheDocumentedBytes) {
  std::vector<uint8_t> bytes{0x00, 0x34};  // 0.25
  for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<uint8_t>(i * 37 + 11));
  float y[32];
  decode_blocks(bytes.data(), DType::kQ8, y, 32);
  EXPECT_EQ((std::vector<float>{y[0], y[1], y[15], y[16], y[17], y[31]}),
            (std::vector<float>{2.75f, 12, 13.5f, 22.75f, -32, -30.5f}));
  EXPECT_EQ(std::accumulate(y, y + 32, 0.0f), 4);
  decode_blocks(bytes.data(), DType::kQ4, y, 32);
  EXPECT_EQ((std::vector<float>{y[0], y[1], y[15], y[16], y[17], y[31]}),
            (std::vector<float>{0.75f, -2, -0.5f, -2, -1.25f, -1.25f}));
  EXPECT_EQ(std::accumulate(y, y + 32, 0.0f), -7.75f);
}

TEST(QuantBlocks, ErrorIsNotAboveThePlainEncodings) {
  const std::vector<float> x = mixed_values(6000);
  double total_q4 = 0, total_plain_q4 = 0;
  const std::vector<float> q8 = through(x, DType::kQ8), q4 = through(x, DType::kQ4);
  for (size_t i = 0; i < x.size(); i += kBlockValues) {
    float plain[kBlockValues];
    plain_q8(&x[i], plain);
    EXPECT_LE(squared_error(&x[i], &q8[i]), squared_error(&x[i], plain) * (1 + 1e-5)) << "block " << i / kBlockValues;
    plain_q4(&x[i], plain);
    const double error = squared_error(&x[i], &q4[i]), plain_error = squared_error(&x[i], plain);
    EXPECT_LE(error, plain_error * (1 + 1e-5)) << "block " << i / kBlockValues;
    if (i / kBlockValues % 6 < 2) {
      total_q4 += error;
      total_plain_q4 += plain_error;
    }
  }
  EXPECT_LT(total_q4, 0.9 * total_plain_q4);  // what the search is for
}

TEST(QuantBlocks, ZeroIsExactAndCodesComeBack) {
  for (const DType dtype : kBlockTypes) {
    std::vector<float> x = mixed_values(60);
    for (size_t i = 0; i < x.size(); i += 3) x[i] = 0;
    const std::vector<float> y = through(x, dtype);
    for (size_t i = 0; i < x.size(); i += 3) EXPECT_EQ(y[i], 0);
    EXPECT_EQ(through(std::vector<float>(64, 0.0f), dtype), std::vector<float>(64, 0.0f));
  }
  // Values that Q8 holds exactly come back, since d does.
  std::vector<float> exact(32);
  for (int i = 0; i < 32; ++i) exact[static_cast<size_t>(i)] = 0.25f * static_cast<float>(i * 8 - 127);
  EXPECT_EQ(through(exact, DType::kQ8), exact);
}

TEST(QuantBlocks, ALastBlockIsFilledUpWithZeros) {
  for (const DType dtype : kBlockTypes) {
    const std::vector<float> x = mixed_values(2);
    std::vector<float> padded(x.begin(), x.begin() + 40);
    const std::vector<float> part = through(padded, dtype);
    padded.resize(64);
    std::vector<float> whole = through(padded, dtype);
    EXPECT_TRUE(std::all_of(whole.begin() + 40, whole.end(), [](float v) { return v == 0; }));
    whole.resize(40);
    EXPECT_EQ(part, whole);
    EXPECT_EQ(dtype_bytes(dtype, 40), dtype_bytes(dtype, 64));
    EXPECT_EQ(dtype_bytes(dtype, 0), 0u);
  }
  EXPECT_EQ(dtype_bytes(DType::kQ8, 64), 68u);
  EXPECT_EQ(dtype_bytes(DType::kQ4, 64), 36u);
  EXPECT_THROW(dtype_bytes(DType::kQ8, SIZE_MAX), Error);
}

TEST(QuantBlocks, ExtremesStayFinite) {
  for (const DType dtype : kBlockTypes) {
    for (const float value : {1e-45f, 1e-30f, 1e-9f, 1e5f, 1e9f, 3e38f, -3e38f}) {
      for (const float y : through(std::vector<float>(32, value), dtype)) {
        EXPECT_TRUE(std::isfinite(y)) << value;
        EXPECT_FALSE(y * value < 0) << value << " " << y;
      }
    }
  }
}

TEST(QuantBlocks, ScalesThatAreNoNumbersAreFound) {
  for (const DType dtype : kBlockTypes) {
    std::vector<std::byte> blocks(dtype_bytes(dtype, 96));
    encode_blocks(mixed_values(3).data(), dtype, blocks.data(), 96);
    EXPECT_FALSE(first_not_finite(blocks.data(), dtype, 96));
    blocks[dtype_bytes(dtype, 64) + 1] = std::byte{0x7E};
    EXPECT_EQ(first_not_finite(blocks.data(), dtype, 96), 64);
    EXPECT_FALSE(first_not_finite(blocks.data(), dtype, 64));
  }
}

}  // namespace
}  // namespace carousel
