// SPDX-License-Identifier: Apache-2.0
// The table of GGUF's element encodings, and the decoders of their blocks.
#include "carousel/formats/ggml_blocks.h"

namespace carousel::formats {
namespace {

constexpr int kSmall = 32;   // values of the older blocks
constexpr int kLarge = 256;  // values of the K blocks

float half_at(const uint8_t* bytes) {
  return to_float(F16{static_cast<uint16_t>(bytes[0] | (static_cast<unsigned>(bytes[1]) << 8))});
}
uint32_t word_at(const uint8_t* bytes) {
  return static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
         static_cast<uint32_t>(bytes[2]) << 16 | static_cast<uint32_t>(bytes[3]) << 24;
}
int low(uint8_t byte) { return byte & 15; }
int high(uint8_t byte) { return byte >> 4; }
int signed_byte(uint8_t byte) { return byte < 128 ? byte : byte - 256; }

// Sixteen bytes hold 32 nibbles: the low ones are the first half of the values.
void q4_0(const uint8_t* in, float* out) {
  const float d = half_at(in);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(low(in[2 + j]) - 8) * d;
    out[j + 16] = static_cast<float>(high(in[2 + j]) - 8) * d;
  }
}

void q4_1(const uint8_t* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(low(in[4 + j])) * d + m;
    out[j + 16] = static_cast<float>(high(in[4 + j])) * d + m;
  }
}

// The fifth bits of all 32 values follow the scales.
void q5_values(uint32_t bits, const uint8_t* nibbles, int* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = low(nibbles[j]) | static_cast<int>((bits >> j) & 1) << 4;
    out[j + 16] = high(nibbles[j]) | static_cast<int>((bits >> (j + 16)) & 1) << 4;
  }
}

void q5_0(const uint8_t* in, float* out) {
  const float d = half_at(in);
  int q[kSmall];
  q5_values(word_at(in + 2), in + 6, q);
  for (int j = 0; j < kSmall; ++j) out[j] = static_cast<float>(q[j] - 16) * d;
}

void q5_1(const uint8_t* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  int q[kSmall];
  q5_values(word_at(in + 4), in + 8, q);
  for (int j = 0; j < kSmall; ++j) out[j] = static_cast<float>(q[j]) * d + m;
}

void q8_0(const uint8_t* in, float* out) {
  const float d = half_at(in);
  for (int j = 0; j < kSmall; ++j) out[j] = static_cast<float>(signed_byte(in[2 + j])) * d;
}

// Two bits per value. Groups of 16 follow each other in the order half of the block, bit pair, half of the group.
void q2_k(const uint8_t* in, float* out) {
  const uint8_t* const scales = in;
  const uint8_t* const quants = in + 16;
  const float d = half_at(in + 80), dmin = half_at(in + 82);
  for (int group = 0; group < 16; ++group) {
    const int n = group / 8, shift = group % 8 / 2 * 2, p = group % 2;
    const float scale = d * static_cast<float>(low(scales[group])),
                min = dmin * static_cast<float>(high(scales[group]));
    for (int l = 0; l < 16; ++l) {
      out[16 * group + l] = scale * static_cast<float>((quants[32 * n + 16 * p + l] >> shift) & 3) - min;
    }
  }
}

// As q2_k, with a third bit in a mask and six-bit scales.
void q3_k(const uint8_t* in, float* out) {
  const uint8_t* const mask = in;
  const uint8_t* const quants = in + 32;
  const uint8_t* const packed = in + 96;
  const float d = half_at(in + 108);
  for (int group = 0; group < 16; ++group) {
    const int n = group / 8, j = group % 8 / 2, p = group % 2;
    const int nibble = group < 8 ? low(packed[group]) : high(packed[group - 8]);
    const int scale = (nibble | ((packed[8 + group % 4] >> (2 * (group / 4))) & 3) << 4) - 32;
    for (int l = 0; l < 16; ++l) {
      const int bits = (quants[32 * n + 16 * p + l] >> (2 * j)) & 3;
      const int third = (mask[16 * p + l] >> (4 * n + j)) & 1;
      out[16 * group + l] = d * static_cast<float>(scale) * static_cast<float>(bits - (third != 0 ? 0 : 4));
    }
  }
}

struct ScaleMin {
  int scale, min;
};
// Eight pairs of six bits in twelve bytes.
ScaleMin scale_min(const uint8_t* packed, int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4, (packed[j + 4] >> 4) | (packed[j] >> 6) << 4};
}

// q4_k and q5_k: `fifth` are the bytes with the fifth bits, or none.
void q45_k(const uint8_t* in, const uint8_t* fifth, const uint8_t* quants, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin six = scale_min(in + 4, j);
    const float scale = d * static_cast<float>(six.scale), min = dmin * static_cast<float>(six.min);
    for (int l = 0; l < 32; ++l) {
      const uint8_t byte = quants[32 * (j / 2) + l];
      const int bit = fifth == nullptr ? 0 : (fifth[l] >> j) & 1;
      out[32 * j + l] = scale * static_cast<float>((j % 2 == 0 ? low(byte) : high(byte)) + 16 * bit) - min;
    }
  }
}

void q4_k(const uint8_t* in, float* out) { q45_k(in, nullptr, in + 16, out); }
void q5_k(const uint8_t* in, float* out) { q45_k(in, in + 16, in + 48, out); }

void q6_k(const uint8_t* in, float* out) {
  const uint8_t* const ql = in;
  const uint8_t* const qh = in + 128;
  const uint8_t* const scales = in + 192;
  const float d = half_at(in + 208);
  for (int n = 0; n < 2; ++n) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int l = 0; l < 32; ++l) {
        const uint8_t byte = ql[64 * n + 32 * (quarter % 2) + l];
        const int bits = (quarter < 2 ? low(byte) : high(byte)) | ((qh[32 * n + l] >> (2 * quarter)) & 3) << 4;
        const int scale = signed_byte(scales[8 * n + 2 * quarter + l / 16]);
        out[128 * n + 32 * quarter + l] = d * static_cast<float>(scale) * static_cast<float>(bits - 32);
      }
    }
  }
}

constexpr int kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_values(float d, const uint8_t* nibbles, float* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kLevels[low(nibbles[j])]);
    out[j + 16] = d * static_cast<float>(kLevels[high(nibbles[j])]);
  }
}

void iq4_nl(const uint8_t* in, float* out) { iq4_values(half_at(in), in + 2, out); }

void iq4_xs(const uint8_t* in, float* out) {
  const float d = half_at(in);
  const unsigned upper = in[2] | static_cast<unsigned>(in[3]) << 8;
  for (int b = 0; b < 8; ++b) {
    const int six = ((in[4 + b / 2] >> (4 * (b % 2))) & 15) | static_cast<int>((upper >> (2 * b)) & 3) << 4;
    iq4_values(d * static_cast<float>(six - 32), in + 8 + 16 * b, out + 32 * b);
  }
}

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, DType::kF32},
    {1, "F16", 1, 2, DType::kF16},
    {30, "BF16", 1, 2, DType::kBF16},
    {8, "Q8_0", kSmall, 34, {}, q8_0},
    {2, "Q4_0", kSmall, 18, {}, q4_0},
    {3, "Q4_1", kSmall, 20, {}, q4_1},
    {6, "Q5_0", kSmall, 22, {}, q5_0},
    {7, "Q5_1", kSmall, 24, {}, q5_1},
    {10, "Q2_K", kLarge, 84, {}, q2_k},
    {11, "Q3_K", kLarge, 110, {}, q3_k},
    {12, "Q4_K", kLarge, 144, {}, q4_k},
    {13, "Q5_K", kLarge, 176, {}, q5_k},
    {14, "Q6_K", kLarge, 210, {}, q6_k},
    {20, "IQ4_NL", kSmall, 18, {}, iq4_nl},
    {23, "IQ4_XS", kLarge, 136, {}, iq4_xs},
    // Recognised, so that a file's tensors can be listed and the one that is in the way named.
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

bool decodable(const GgmlType& type) { return type.decode != nullptr || (type.plain && is_float(*type.plain)); }

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
  if (is_block(dtype)) return find_ggml_type(std::string(dtype == DType::kQ8 ? "Q8_0" : "Q4_0"));
  for (const GgmlType& type : kTypes) {
    if (type.plain == dtype) return &type;
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
  if (type.plain) return widen(source, *type.plain, out, static_cast<size_t>(count));
  const auto* bytes = reinterpret_cast<const uint8_t*>(source);
  for (int64_t i = 0; i < count; i += type.block, bytes += type.block_bytes) type.decode(bytes, out + i);
}

bool encode_ggml(const GgmlType& type, const float* source, int64_t count, std::byte* out) {
  const std::optional<DType> dtype = type.decode == q8_0 ? DType::kQ8 : type.decode == q4_0 ? DType::kQ4 : type.plain;
  const bool encodable = dtype && (is_block(*dtype) || (is_float(*dtype) && *dtype != DType::kF64));
  if (encodable) narrow(source, *dtype, out, static_cast<size_t>(count));
  return encodable;
}

}  // namespace carousel::formats
