// SPDX-License-Identifier: Apache-2.0
// The table of GGUF's element encodings.
#include "carousel/formats/ggml_blocks.h"

#include "carousel/core/quant_encode.h"

namespace carousel::formats {
namespace {

constexpr int kSmall = 32;   // values of the older blocks
constexpr int kLarge = 256;  // values of the K blocks

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, DType::kF32},
    {1, "F16", 1, 2, DType::kF16},
    {30, "BF16", 1, 2, DType::kBF16},
    {8, "Q8_0", kSmall, 34, {}, DType::kQ8},
    {2, "Q4_0", kSmall, 18, {}, DType::kQ4},
    {3, "Q4_1", kSmall, 20, {}, DType::kQ41},
    {6, "Q5_0", kSmall, 22, {}, DType::kQ50},
    {7, "Q5_1", kSmall, 24, {}, DType::kQ51},
    {10, "Q2_K", kLarge, 84, {}, DType::kQ2K},
    {11, "Q3_K", kLarge, 110, {}, DType::kQ3K},
    {12, "Q4_K", kLarge, 144, {}, DType::kQ4K},
    {13, "Q5_K", kLarge, 176, {}, DType::kQ5K},
    {14, "Q6_K", kLarge, 210, {}, DType::kQ6K},
    {20, "IQ4_NL", kSmall, 18, {}, DType::kIQ4NL},
    {23, "IQ4_XS", kLarge, 136, {}, DType::kIQ4XS},
    // Recognised only, so that a file's tensors can be listed and a message can name this type.
    {9, "Q8_1", kSmall, 36},
    {15, "Q8_K", kLarge, 292},
    {16, "IQ2_XXS", kLarge, 66},
    {17, "IQ2_XS", kLarge, 74},
    {18, "IQ3_XXS", kLarge, 98},
    {19, "IQ1_S", kLarge, 50},
    {21, "IQ3_S", kLarge, 110},
    {22, "IQ2_S", kLarge, 82},
    {24, "I8", 1, 1, DType::kI8},
    {25, "I16", 1, 2, DType::kI16},
    {26, "I32", 1, 4, DType::kI32},
    {27, "I64", 1, 8, DType::kI64},
    {28, "F64", 1, 8, DType::kF64},
    {29, "IQ1_M", kLarge, 56},
    {34, "TQ1_0", kLarge, 54},
    {35, "TQ2_0", kLarge, 66},
    {39, "MXFP4", kSmall, 17},
    {40, "NVFP4", 64, 36},
};

bool decodable(const GgmlType& type) { return type.blocks || (type.plain && is_float(*type.plain)); }

}  // namespace

std::optional<size_t> GgmlType::bytes_of(int64_t count) const {
  size_t bytes = 0;
  if (count < 0 || __builtin_mul_overflow(static_cast<size_t>(count / block), block_bytes, &bytes)) return {};
  return bytes;
}

const GgmlType* find_ggml_type(uint32_t id) {
  for (const GgmlType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

const GgmlType* find_ggml_type(const std::string& name) {
  for (const GgmlType& type : kTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

const GgmlType* ggml_type_of(DType dtype) {
  for (const GgmlType& type : kTypes) {
    if (type.plain == dtype || type.blocks == dtype) return &type;
  }
  return nullptr;
}

std::string decodable_ggml_types() {
  std::string names;
  for (const GgmlType& type : kTypes) {
    if (decodable(type)) names += (names.empty() ? "" : ", ") + std::string(type.name);
  }
  return names;
}

void decode_ggml(const GgmlType& type, const std::byte* source, int64_t count, float* out) {
  widen(source, type.plain ? *type.plain : *type.blocks, out, static_cast<size_t>(count));
}

bool encode_ggml(const GgmlType& type, const float* source, int64_t count, std::byte* out) {
  const std::optional<DType> dtype = type.blocks ? type.blocks : type.plain;
  const bool encodable = dtype && (is_encodable(*dtype) || (is_float(*dtype) && *dtype != DType::kF64));
  if (encodable) narrow(source, *dtype, out, static_cast<size_t>(count));
  return encodable;
}

}  // namespace carousel::formats
