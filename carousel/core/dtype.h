// SPDX-License-Identifier: Apache-2.0
// Element types: sizes, safetensors names and exact scalar conversions. Values of a block type are encoded in blocks of
// 32 or 256 along a row, which share scales (quant_blocks.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace carousel {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kQ8,
  kQ4,
  // The other blocks of GGUF, in its order of numbers and by its names: kQ41 is Q4_1.
  kQ41,
  kQ50,
  kQ51,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
  kIQ4NL,
  kIQ4XS,
};

size_t dtype_size(DType dtype);                         // bytes per element; throws kShape for a block type
std::string_view dtype_name(DType dtype);               // as safetensors or GGUF spells it: "BF16", "Q4_K"; "Q8", "Q4"
bool parse_dtype(std::string_view name, DType* dtype);  // false: an unknown name, or a block type's
bool parse_block_type(std::string_view name, DType* dtype);  // false: not the name of a block type
bool is_float(DType dtype);
bool is_block(DType dtype);         // any block type
bool is_simple_block(DType dtype);  // Q8 or Q4: one scale for 32 values, which are encoded here

constexpr size_t kBlockValues = 32;  // values in a block of Q8 and Q4
constexpr size_t kBlockTypes = static_cast<size_t>(DType::kIQ4XS) - static_cast<size_t>(DType::kQ8) + 1;
constexpr size_t kMostBlockValues = 256;  // values in the largest blocks
size_t block_values(DType dtype);         // values in a block: 32 or 256; 1 for what is no block type
/// Bytes of `count` consecutive values, a row say; a block type's last block is whole even if not all of it is used.
/// Throws kShape where the bytes overflow.
size_t dtype_bytes(DType dtype, size_t count);

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float to_float(BF16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }
float to_float(F16 value);
BF16 to_bf16(float value);  // round to nearest, ties to even; NaN stays NaN
F16 to_f16(float value);    // round to nearest, ties to even; overflow gives infinity

/// The largest f32 magnitude that `dtype`, a float or block type, can hold; infinity for f32, bf16 and f64, whose
/// largest values no published weight is near.
float largest_value(DType dtype);
/// Whether all values are finite and within largest_value(dtype).
bool fits(const float* values, size_t count, DType dtype);

/// Widens `count` elements of a float type (f32, f16, bf16, f64) or a block type to f32.
void widen(const void* source, DType dtype, float* out, size_t count);
/// Rounds `count` f32 values to `dtype` (f32, f16, bf16, or a block type, whose last block is filled up with zeros).
void narrow(const float* source, DType dtype, void* out, size_t count);

}  // namespace carousel
