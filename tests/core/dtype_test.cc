// SPDX-License-Identifier: Apache-2.0
// Every bit pattern of the 16-bit floats, against their definitions in double.
#include "carousel/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "carousel/core/error.h"

namespace carousel {
namespace {

constexpr DType kAll[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF64, DType::kI64,
                          DType::kI32, DType::kI16, DType::kI8,   DType::kU8,  DType::kBool};

// sign, exponent and fraction as IEEE 754 defines them
double decode(uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const double fraction = std::ldexp(static_cast<double>(bits & ((1u << fraction_bits) - 1)), -fraction_bits);
  const double sign = (bits >> (exponent_bits + fraction_bits)) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0 ? sign * INFINITY : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1 + fraction, exponent - bias);
}

struct Half {
  static constexpr int kExponentBits = 5, kFractionBits = 10;
  static constexpr uint16_t kInfinity = 0x7C00;
  static float up(uint16_t bits) { return to_float(F16{bits}); }
  static uint16_t down(float value) { return to_f16(value).bits; }
};
struct Brain {
  static constexpr int kExponentBits = 8, kFractionBits = 7;
  static constexpr uint16_t kInfinity = 0x7F80;
  static float up(uint16_t bits) { return to_float(BF16{bits}); }
  static uint16_t down(float value) { return to_bf16(value).bits; }
};

template <class Format>
class SixteenBitFloat : public testing::Test {};
using Formats = testing::Types<Half, Brain>;
TYPED_TEST_SUITE(SixteenBitFloat, Formats);

TYPED_TEST(SixteenBitFloat, EveryPatternWidensExactlyAndComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = TypeParam::up(static_cast<uint16_t>(bits));
    const double expected = decode(bits, TypeParam::kExponentBits, TypeParam::kFractionBits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(TypeParam::up(TypeParam::down(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), std::signbit(expected)) << bits;
    ASSERT_EQ(TypeParam::down(value), bits);
  }
}

// Between every two neighbours: their midpoint goes to the even one, one f32 step to either side to the nearer one.
// The last pair ends at infinity, whose place on the line is that of the next power of two.
TYPED_TEST(SixteenBitFloat, RoundsToNearestTiesToEven) {
  for (const uint16_t sign : {uint16_t{0}, uint16_t{0x8000}}) {
    for (uint32_t low = 0; low < TypeParam::kInfinity; ++low) {
      const uint32_t high = low + 1;
      const double a = decode(low, TypeParam::kExponentBits, TypeParam::kFractionBits);
      const double b = decode(high, TypeParam::kExponentBits, TypeParam::kFractionBits);
      const double step = a - decode(low - 1, TypeParam::kExponentBits, TypeParam::kFractionBits);
      const double middle = std::isinf(b) ? a + step / 2 : (a + b) / 2;
      const auto exact = static_cast<float>(middle);
      ASSERT_EQ(static_cast<double>(exact), middle);
      const uint32_t middle_bits = float_to_bits(exact) | (static_cast<uint32_t>(sign) << 16);
      ASSERT_EQ(TypeParam::down(bits_to_float(middle_bits)), sign | (low % 2 == 0 ? low : high)) << low;
      ASSERT_EQ(TypeParam::down(bits_to_float(middle_bits - 1)), sign | low) << low;
      ASSERT_EQ(TypeParam::down(bits_to_float(middle_bits + 1)), sign | high) << low;
    }
  }
}

TYPED_TEST(SixteenBitFloat, ExtremesSaturateToInfinityAndZero) {
  EXPECT_EQ(TypeParam::down(std::numeric_limits<float>::max()), TypeParam::kInfinity);
  EXPECT_EQ(TypeParam::down(-INFINITY), 0x8000 | TypeParam::kInfinity);
  EXPECT_EQ(TypeParam::down(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(TypeParam::down(-std::numeric_limits<float>::denorm_min()), 0x8000);
  EXPECT_TRUE(std::isnan(TypeParam::up(TypeParam::down(bits_to_float(0x7F800001u)))));  // all payload below the cut
}

TEST(DType, NamesRoundTrip) {
  for (const DType dtype : kAll) {
    DType parsed = DType::kF32;
    ASSERT_TRUE(parse_dtype(dtype_name(dtype), &parsed));
    EXPECT_EQ(parsed, dtype);
  }
  DType unused = DType::kF32;
  for (const char* name : {"", "f32", "F8_E4M3", "F8_E5M2", "U64", "F320", "C64"})
    EXPECT_FALSE(parse_dtype(name, &unused));
  EXPECT_FALSE(parse_dtype("Q8", &unused));  // no name of an element
  EXPECT_THROW(dtype_size(DType::kQ4), Error);
  EXPECT_EQ(dtype_size(DType::kF64), 8u);
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kBool), 1u);
}

TEST(DType, WidenReadsMisalignedSources) {
  const std::vector<float> values = {1, -2.5f, 0, 65504};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<uint16_t> narrowed(2 * values.size());
    narrow(values.data(), dtype, narrowed.data(), values.size());
    std::vector<char> shifted(1 + 4 * values.size());
    std::memcpy(shifted.data() + 1, narrowed.data(), values.size() * dtype_size(dtype));
    std::vector<float> widened(values.size());
    widen(shifted.data() + 1, dtype, widened.data(), values.size());
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(widened[i], values[i]) << dtype_name(dtype);
  }
  const double wide[] = {1e-3, 3};
  float out[2];
  widen(wide, DType::kF64, out, 2);
  EXPECT_EQ(out[0], 1e-3f);
  EXPECT_THROW(widen(wide, DType::kI64, out, 2), Error);
  EXPECT_THROW(narrow(out, DType::kI8, out, 2), Error);
}

}  // namespace
}  // namespace carousel
