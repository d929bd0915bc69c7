// SPDX-License-Identifier: Apache-2.0
// Block encodings of GGUF against values worked out by hand from the layouts, and against what the public gguf package
// decodes from random blocks (tests/fixtures/gguf/blocks.safetensors, tools/make_gguf_fixtures.py).
#include "carousel/formats/ggml_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "carousel/core/rng.h"

namespace carousel::formats {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes pattern(int a, int b, int count) {
  Bytes out;
  for (int i = 0; i < count; ++i) out.push_back(static_cast<uint8_t>(i * a + b));
  return out;
}

Bytes joined(const std::vector<Bytes>& parts) {
  Bytes out;
  for (const Bytes& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

struct Case {
  const char* type;
  Bytes block;
  std::vector<float> values;  // at the indices below
  float sum;
};

const std::vector<int> kSmallAt = {0, 1, 15, 16, 17, 31};
const std::vector<int> kLargeAt = {0, 1, 31, 32, 63, 64, 127, 128, 160, 191, 192, 255};

const Bytes kQuarter = {0x00, 0x34}, kMinus1_5 = {0x00, 0xBE}, kSixteenth = {0x00, 0x2C}, kThirtySecond = {0x00, 0x28};
const Bytes kFifth = {0x96, 0x0F, 0xC3, 0xA5};

std::vector<Case> cases() {
  const Bytes nibbles = pattern(37, 11, 16), scales12 = pattern(37, 11, 12), scales16 = pattern(37, 11, 16);
  const Bytes quants = pattern(91, 7, 128), quants64 = pattern(91, 7, 64), bits = pattern(53, 29, 32);
  return {
      {"Q4_0", joined({kQuarter, nibbles}), {.75, -2, -.5, -2, -1.25, -1.25}, -7.75},
      {"Q4_1", joined({kQuarter, kMinus1_5, nibbles}), {1.25, -1.5, 0, -1.5, -.75, -.75}, 8.25},
      {"Q5_0", joined({kQuarter, kFifth, nibbles}), {-1.25, 0, -2.5, 0, .75, .75}, -7.75},
      {"Q5_1", joined({kQuarter, kMinus1_5, kFifth, nibbles}), {1.25, 2.5, 0, 2.5, 3.25, 3.25}, 72.25},
      {"Q8_0", joined({kQuarter, pattern(37, 11, 32)}), {2.75, 12, 13.5, 22.75, -32, -30.5}, 4},
      {"IQ4_NL", joined({kQuarter, nibbles}), {9.5, -31.75, -5.5, -31.75, -16.25, -16.25}, -103.75},
      {"Q4_K",
       joined({kSixteenth, kThirtySecond, scales12, quants}),
       {3.84375, .40625, 7.28125, -.125, -.125, 7.90625, 21.3125, .21875, 4.34375, 4.34375, 10.96875, 1.9375},
       2624},
      {"Q5_K",
       joined({kSixteenth, kThirtySecond, scales12, bits, quants}),
       {14.84375, .40625, 7.28125, -.125, -.125, 28.90625, 79.3125, 3.21875, 4.34375, 4.34375, 10.96875, 19.9375},
       5734},
      {"Q6_K",
       joined({quants, pattern(53, 29, 64), scales16, kSixteenth}),
       {-6.1875, 1.375, -60, 122.1875, 91.5, 97, 5.25, -28.6875, 179.6875, -70.5, -99.75, -101.25},
       -75.5},
      {"Q2_K",
       joined({scales16, quants64, kSixteenth, kThirtySecond}),
       {2.0625, 1.375, -.09375, .15625, 1.65625, -.28125, 0, .46875, .59375, .0625, .5, .28125},
       122.6875},
      {"Q3_K",
       joined({bits, quants64, scales12, kSixteenth}),
       {5.0625, -3.375, 8, 2.0625, -.625, 0, 0, 3, -3.9375, -.4375, 2.875, 0},
       7.3125},
      {"IQ4_XS",
       joined({kSixteenth, {0xE4, 0xB1}, {0x3C, 0xA7, 0x58, 0xF1}, quants}),
       {12.5, 103.75, 43.75, 8.125, 103.1875, -4.375, -35.75, 5, 16.875, -89.4375, -10.625, -77.8125},
       -36.25},
  };
}

TEST(GgmlBlocks, DecodeByHand) {
  for (const Case& c : cases()) {
    const GgmlType* type = find_ggml_type(std::string(c.type));
    ASSERT_NE(type, nullptr) << c.type;
    ASSERT_EQ(c.block.size(), type->block_bytes) << c.type;
    std::vector<float> out(static_cast<size_t>(type->block));
    decode_ggml(*type, reinterpret_cast<const std::byte*>(c.block.data()), type->block, out.data());
    const std::vector<int>& at = type->block == 32 ? kSmallAt : kLargeAt;
    for (size_t i = 0; i < at.size(); ++i) {
      EXPECT_EQ(out[static_cast<size_t>(at[i])], c.values[i]) << c.type << " value " << at[i];
    }
    EXPECT_EQ(std::accumulate(out.begin(), out.end(), 0.0F), c.sum) << c.type;
  }
}

TEST(GgmlBlocks, TypesAreFoundByIdNameAndDtype) {
  EXPECT_EQ(find_ggml_type(12), find_ggml_type(std::string("Q4_K")));
  EXPECT_EQ(find_ggml_type(12)->bytes_of(512), size_t{288});
  EXPECT_EQ(ggml_type_of(DType::kBF16)->id, 30u);
  EXPECT_EQ(ggml_type_of(DType::kBool), nullptr);
  EXPECT_EQ(find_ggml_type(31), nullptr);
  EXPECT_EQ(find_ggml_type(std::string("Q4_4")), nullptr);
  EXPECT_EQ(find_ggml_type(28)->bytes_of(INT64_MAX), std::nullopt);
}

TEST(GgmlBlocks, EncodeKeepsWhatItDecoded) {
  for (const char* name : {"Q8_0", "Q4_0"}) {
    const GgmlType& type = *find_ggml_type(std::string(name));
    Rng rng(7, 1);
    std::vector<float> values(32 * 200), decoded(values.size()), again(values.size());
    for (float& value : values) value = static_cast<float>(rng.normal());
    for (int j = 0; j < 32; ++j) values[static_cast<size_t>(j)] = 0;
    std::vector<std::byte> bytes(*type.bytes_of(static_cast<int64_t>(values.size()))), second(bytes.size());
    const auto count = static_cast<int64_t>(values.size());
    ASSERT_TRUE(encode_ggml(type, values.data(), count, bytes.data()));
    decode_ggml(type, bytes.data(), count, decoded.data());
    for (size_t block = 0; block < values.size(); block += 32) {
      float largest = 0;
      for (size_t j = block; j < block + 32; ++j) largest = std::max(largest, std::fabs(values[j]));
      const float step = std::string(name) == "Q8_0" ? largest / 127 / 2 : largest / 8;  // half a level; or the one 7/8
      for (size_t j = block; j < block + 32; ++j) {
        EXPECT_LE(std::fabs(decoded[j] - values[j]), step * 1.07F) << name << " value " << j;
      }
    }
    for (size_t j = 0; j < 32; ++j) EXPECT_EQ(decoded[j], 0) << name;
    ASSERT_TRUE(encode_ggml(type, decoded.data(), count, second.data()));
    decode_ggml(type, second.data(), count, again.data());
    for (size_t j = 0; j < values.size(); ++j) EXPECT_NEAR(again[j], decoded[j], 2e-3 * std::fabs(decoded[j]));
  }
}

TEST(GgmlBlocks, OtherTypesAreNotEncoded) {
  const std::vector<float> values(256);
  std::vector<std::byte> bytes(512);
  EXPECT_FALSE(encode_ggml(*find_ggml_type(std::string("Q3_K")), values.data(), 256, bytes.data()));
  EXPECT_TRUE(encode_ggml(*find_ggml_type(std::string("Q6_K")), values.data(), 256, bytes.data()));
  EXPECT_TRUE(encode_ggml(*find_ggml_type(std::string("BF16")), values.data(), 256, bytes.data()));
}

}  // namespace
}  // namespace carousel::formats
