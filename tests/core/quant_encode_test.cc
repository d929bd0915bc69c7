// SPDX-License-Identifier: Apache-2.0
// Encoders with searched scales: their error beside that of the common tool, their bytes on every machine, and blocks
// that strain a search.
#include "carousel/core/quant_encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/finite.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/core/rng.h"

namespace carousel {
namespace {

constexpr DType kSearched[] = {DType::kQ50, DType::kQ51, DType::kQ4K, DType::kQ5K, DType::kQ6K};

std::vector<float> normal_values(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(rng.normal());
  return values;
}

std::vector<uint8_t> encoded(const std::vector<float>& values, DType dtype) {
  std::vector<uint8_t> bytes(dtype_bytes(dtype, values.size()));
  encode_blocks(values.data(), dtype, bytes.data(), values.size());
  return bytes;
}

std::vector<float> through(const std::vector<float>& values, DType dtype) {
  const std::vector<uint8_t> bytes = encoded(values, dtype);
  std::vector<float> out(values.size());
  decode_blocks(bytes.data(), dtype, out.data(), out.size());
  return out;
}

double rmse(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// The error of llama.cpp's encoders (of llama-cpp-python 0.3.36) on the same values, decoded by gguf's package.
TEST(QuantEncode, ErrorIsBelowThatOfTheCommonTool) {
  const struct {
    DType dtype;
    double theirs;
  } cases[] = {{DType::kQ4K, 0.071387},
               {DType::kQ5K, 0.036027},
               {DType::kQ6K, 0.017662},
               {DType::kQ50, 0.042751},
               {DType::kQ51, 0.037823}};
  const std::vector<float> values = normal_values(64 * 256, 11);
  for (const auto& c : cases) {
    const double ours = rmse(through(values, c.dtype), values);
    EXPECT_LT(ours, c.theirs * 0.99) << dtype_name(c.dtype);
    EXPECT_GT(ours, c.theirs * 0.8) << dtype_name(c.dtype);  // no encoder of so few bits is that good
  }
}

// FNV-1a of the bytes of values that any machine computes alike.
TEST(QuantEncode, TheSameBytesOnEveryMachine) {
  const struct {
    DType dtype;
    uint32_t hash;
  } cases[] = {{DType::kQ4K, 0x0a446e73},
               {DType::kQ5K, 0x82ed5ff8},
               {DType::kQ6K, 0x78542b08},
               {DType::kQ50, 0xe0014f88},
               {DType::kQ51, 0x4da8ac1e}};
  std::vector<float> values(32 * 256);
  uint32_t random = 1;
  for (float& value : values) {
    random = random * 1664525 + 1013904223;
    const auto number = static_cast<float>(random >> 8) * 0x1p-24F - 0.5F;
    value = number * number * number;
  }
  for (const auto& c : cases) {
    uint32_t hash = 2166136261;
    for (const uint8_t byte : encoded(values, c.dtype)) hash = (hash ^ byte) * 16777619;
    EXPECT_EQ(hash, c.hash) << dtype_name(c.dtype);
  }
}

// Blocks are searched eight at a time; what they are searched with changes nothing.
TEST(QuantEncode, ABlockDoesNotDependOnItsNeighbours) {
  const std::vector<float> values = normal_values(11 * 256, 3);
  for (const DType dtype : kSearched) {
    const std::vector<uint8_t> whole = encoded(values, dtype);
    const size_t in_block = block_values(dtype);
    std::vector<uint8_t> alone;
    for (size_t begin = 0; begin < values.size(); begin += in_block) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
      const std::vector<uint8_t> block = encoded({first, first + static_cast<std::ptrdiff_t>(in_block)}, dtype);
      alone.insert(alone.end(), block.begin(), block.end());
    }
    EXPECT_EQ(whole, alone) << dtype_name(dtype);
  }
}

TEST(QuantEncode, ZerosAreExactAndLevelsNearlySo) {
  for (const DType dtype : kSearched) {
    const std::vector<float> zeros(256);
    EXPECT_EQ(through(zeros, dtype), zeros) << dtype_name(dtype);
    for (const float level : {0.37F, -0.37F, 0.05F, -900.0F}) {
      const std::vector<float> flat(256, level);
      EXPECT_LT(rmse(through(flat, dtype), flat), 5e-3 * std::abs(level)) << dtype_name(dtype) << " " << level;
    }
  }
  // A scale alone leaves zeros among other values as they are.
  std::vector<float> sparse = normal_values(256, 5);
  for (size_t i = 0; i < sparse.size(); i += 3) sparse[i] = 0;
  for (const DType dtype : {DType::kQ50, DType::kQ6K}) {
    const std::vector<float> out = through(sparse, dtype);
    for (size_t i = 0; i < sparse.size(); i += 3) EXPECT_EQ(out[i], 0) << dtype_name(dtype);
  }
}

// Outliers, one-sided values, parts of very different size, values below and beyond what scales can hold.
TEST(QuantEncode, StrainedBlocksStayFiniteAndNear) {
  for (const DType dtype : kSearched) {
    for (int kind = 0; kind < 6; ++kind) {
      std::vector<float> values = normal_values(8 * 256, static_cast<uint64_t>(kind) + 20);
      for (size_t i = 0; i < values.size(); ++i) {
        float& value = values[i];
        if (kind == 0 && i % 97 == 0) value *= 1000;
        if (kind == 1) value = std::abs(value) + 3;
        if (kind == 2) value = -std::abs(value) - 3;
        if (kind == 3) value *= std::pow(10.0F, static_cast<float>(i / 32 % 8) - 6);
        if (kind == 4) value *= 1e-30F;
        if (kind == 5) value *= 1e30F;
      }
      const std::vector<float> out = through(values, dtype);
      EXPECT_FALSE(first_not_finite(out.data(), DType::kF32, static_cast<int64_t>(out.size())))
          << dtype_name(dtype) << " " << kind;
      if (kind == 5) continue;  // saturates
      for (size_t block = 0; block < values.size(); block += 256) {
        float peak = 0;
        for (size_t i = block; i < block + 256; ++i) peak = std::max(peak, std::abs(values[i]));
        for (size_t i = block; i < block + 256; ++i) {
          ASSERT_LE(std::abs(out[i] - values[i]), peak * 0.15F + 1e-7F) << dtype_name(dtype) << " " << kind;
        }
      }
    }
  }
}

TEST(QuantEncode, ARowThatEndsInsideABlockIsFilledWithZeros) {
  std::vector<float> values = normal_values(300, 9), filled = values;
  for (const DType dtype : kSearched) {
    filled.resize((values.size() + block_values(dtype) - 1) / block_values(dtype) * block_values(dtype));
    EXPECT_EQ(encoded(values, dtype), encoded(filled, dtype)) << dtype_name(dtype);
    filled = values;
  }
}

TEST(QuantEncode, TypesThatAreOnlyReadAreNamed) {
  const std::vector<float> values(256);
  for (const DType dtype : {DType::kQ2K, DType::kQ3K, DType::kQ41, DType::kIQ4NL, DType::kIQ4XS}) {
    EXPECT_FALSE(is_encodable(dtype));
    try {
      encoded(values, dtype);
      ADD_FAILURE() << dtype_name(dtype) << " was encoded";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("got dtype " + std::string(dtype_name(dtype))), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace carousel
