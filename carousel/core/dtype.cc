// SPDX-License-Identifier: Apache-2.0
// Sizes and names of element types, and the conversions between f32 and the narrower floats, exact or rounded.
#include "carousel/core/dtype.h"

#include <algorithm>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/core/quant_blocks.h"

namespace carousel {
namespace {

struct DTypeRow {
  DType dtype;
  const char* name;
  size_t unit_bytes;  // of a value, or of a block
  size_t unit_values = 1;
  // A value of a block is at most so many times its scale, or so many times both scales together where there are two.
  float largest_code = 0;
};
constexpr DTypeRow kDTypes[] = {
    {DType::kF32, "F32", 4},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kF64, "F64", 8},
    {DType::kI64, "I64", 8},
    {DType::kI32, "I32", 4},
    {DType::kI16, "I16", 2},
    {DType::kI8, "I8", 1},
    {DType::kU8, "U8", 1},
    {DType::kBool, "BOOL", 1},
    {DType::kQ8, "Q8", kQ8BlockBytes, 32, 127},
    {DType::kQ4, "Q4", kQ4BlockBytes, 32, 7},  // for both signs
    {DType::kQ41, "Q4_1", 20, 32, 15 + 1},
    {DType::kQ50, "Q5_0", 22, 32, 16},
    {DType::kQ51, "Q5_1", 24, 32, 31 + 1},
    {DType::kQ2K, "Q2_K", 84, 256, 15 * 3 + 15},
    {DType::kQ3K, "Q3_K", 110, 256, 32 * 4},
    {DType::kQ4K, "Q4_K", 144, 256, 63 * 15 + 63},
    {DType::kQ5K, "Q5_K", 176, 256, 63 * 31 + 63},
    {DType::kQ6K, "Q6_K", 210, 256, 128 * 32},
    {DType::kIQ4NL, "IQ4_NL", 18, 32, 127},
    {DType::kIQ4XS, "IQ4_XS", 136, 256, 32 * 127},
};
const DTypeRow& row(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

}  // namespace

size_t dtype_size(DType dtype) {
  if (is_block(dtype)) fail(ErrorKind::kShape, "dtype_size: {} has no size per element", dtype_name(dtype));
  return row(dtype).unit_bytes;
}
bool is_block(DType dtype) { return row(dtype).unit_values > 1; }
bool is_simple_block(DType dtype) { return dtype == DType::kQ8 || dtype == DType::kQ4; }
size_t block_values(DType dtype) { return row(dtype).unit_values; }

size_t dtype_bytes(DType dtype, size_t count) {
  const size_t values = row(dtype).unit_values, units = count / values + (count % values != 0);
  size_t bytes = 0;
  if (__builtin_mul_overflow(units, row(dtype).unit_bytes, &bytes)) {
    fail(ErrorKind::kShape, "dtype_bytes: {} values of {} overflow", count, dtype_name(dtype));
  }
  return bytes;
}

std::string_view dtype_name(DType dtype) { return row(dtype).name; }
bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF64;
}

bool parse_dtype(std::string_view name, DType* dtype) {
  for (const DTypeRow& candidate : kDTypes) {
    if (name == candidate.name && !is_block(candidate.dtype)) {
      *dtype = candidate.dtype;
      return true;
    }
  }
  return false;
}

bool parse_block_type(std::string_view name, DType* dtype) {
  for (const DTypeRow& candidate : kDTypes) {
    if (name == candidate.name && is_block(candidate.dtype)) {
      *dtype = candidate.dtype;
      return true;
    }
  }
  return false;
}

float largest_value(DType dtype) {
  constexpr float kLargestHalf = 65504;
  if (dtype == DType::kF16) return kLargestHalf;
  if (is_block(dtype)) return row(dtype).largest_code * kLargestHalf;
  return std::numeric_limits<float>::infinity();
}

bool fits(const float* values, size_t count, DType dtype) {
  const float largest = std::min(largest_value(dtype), std::numeric_limits<float>::max());
  bool inside = true;
  for (size_t i = 0; i < count; ++i) inside &= values[i] >= -largest && values[i] <= largest;
  return inside;
}

float to_float(F16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1Fu;
  const uint32_t mantissa = value.bits & 0x3FFu;
  if (exponent == 31) return bits_to_float(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * bits_to_float(0x33800000u);  // subnormal: mantissa * 2^-24
  return bits_to_float(sign | float_to_bits(magnitude));
}

BF16 to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

F16 to_f16(float value) {
  const uint32_t bits = float_to_bits(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                                                 // subnormal or zero
    // Adding 0.5 aligns the value's 2^-24 unit with the last mantissa bit; the hardware rounds to nearest even.
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3F000000u))};
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

namespace {

template <class T, class Convert>
void convert_all(const void* source, float* out, size_t count, Convert convert) {
  for (size_t i = 0; i < count; ++i) {
    T value;  // the source may be a mapped file: no alignment is promised
    std::memcpy(&value, static_cast<const char*>(source) + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

}  // namespace

void widen(const void* source, DType dtype, float* out, size_t count) {
  if (count == 0) return;  // an empty tensor has no address
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, source, count * sizeof(float));
      return;
    case DType::kF16:
      return convert_all<F16>(source, out, count, [](F16 v) { return to_float(v); });
    case DType::kBF16:
      return convert_all<BF16>(source, out, count, [](BF16 v) { return to_float(v); });
    case DType::kF64:
      return convert_all<double>(source, out, count, [](double v) { return static_cast<float>(v); });
    default:
      if (is_block(dtype)) return decode_blocks(source, dtype, out, count);
      fail(ErrorKind::kShape, "widen: got dtype {}, expected a float type", dtype_name(dtype));
  }
}

// `out` may have any alignment, as rows of a file have.
template <class Half>
static void narrow_to(const float* source, std::byte* out, size_t count, Half (*rounded)(float)) {
  for (size_t i = 0; i < count; ++i) {
    const Half half = rounded(source[i]);
    std::memcpy(out + i * sizeof half, &half, sizeof half);
  }
}

void narrow(const float* source, DType dtype, void* out, size_t count) {
  if (count == 0) return;
  if (is_block(dtype)) return encode_blocks(source, dtype, out, count);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, source, count * sizeof(float));
      return;
    case DType::kF16:
      narrow_to(source, static_cast<std::byte*>(out), count, to_f16);
      return;
    case DType::kBF16:
      narrow_to(source, static_cast<std::byte*>(out), count, to_bf16);
      return;
    default:
      fail(ErrorKind::kShape, "narrow: got dtype {}, expected f32, f16, bf16 or a block type", dtype_name(dtype));
  }
}

}  // namespace carousel
