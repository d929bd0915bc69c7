// SPDX-License-Identifier: Apache-2.0
// Decoders of GGUF's blocks that are only read: those with a minimum beside the scale, and those of 256 values whose
// scales are integers of few bits. Layouts are those of the public format (little-endian, scales in IEEE half).
#include <cstdint>

#include "carousel/core/quant_blocks.h"

namespace carousel {
namespace {

constexpr int kSmall = 32;  // values of the older blocks

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

// The order of q2_k, with a third bit in a mask and six-bit scales.
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

// Decodes q4_k and q5_k; `fifth` are the bytes with the fifth bits, or null.
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

void iq4_values(float d, const uint8_t* nibbles, float* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kIq4Levels[low(nibbles[j])]);
    out[j + 16] = d * static_cast<float>(kIq4Levels[high(nibbles[j])]);
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

struct TypeForm {
  DType dtype;
  BlockForm form;
};
constexpr TypeForm kForms[] = {
    {DType::kQ41, {q4_1, 0, 2}},     {DType::kQ50, {q5_0, 0, 1}},   {DType::kQ51, {q5_1, 0, 2}},
    {DType::kQ2K, {q2_k, 80, 2}},    {DType::kQ3K, {q3_k, 108, 1}}, {DType::kQ4K, {q4_k, 0, 2}},
    {DType::kQ5K, {q5_k, 0, 2}},     {DType::kQ6K, {q6_k, 208, 1}}, {DType::kIQ4NL, {iq4_nl, 0, 1}},
    {DType::kIQ4XS, {iq4_xs, 0, 1}},
};

}  // namespace

const BlockForm& block_form(DType dtype) {
  static constexpr BlockForm kSimple = {nullptr, 0, 1};
  for (const TypeForm& one : kForms) {
    if (one.dtype == dtype) return one.form;
  }
  return kSimple;
}

}  // namespace carousel
