// SPDX-License-Identifier: Apache-2.0
// Encoding and decoding of the block types, one block at a time.
#include "carousel/core/quant_blocks.h"

#include <algorithm>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/quant_encode.h"

namespace carousel {
namespace {

constexpr int kValues = static_cast<int>(kBlockValues);
constexpr float kLargestScale = 65504.0f;  // the largest finite f16

// Four values at a time: a model of billions is encoded while it loads.
typedef float Four __attribute__((vector_size(16)));
constexpr int kFours = kValues / 4;

struct Block {
  Four v[kFours];
};

Four set(float x) { return Four{x, x, x, x}; }
Four clamp(Four x, float low, float high) {
  x = x > set(low) ? x : set(low);
  return x < set(high) ? x : set(high);
}
float sum(Four x) { return (x[0] + x[1]) + (x[2] + x[3]); }

/// Nearest integers, ties to even, in [low, high], as floats.
Four nearest(Four x, float low, float high) {
  const Four magic = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  return (clamp(x, low, high) + magic) - magic;
}

/// The largest magnitude of a block, with its sign.
float signed_peak(const Block& x) {
  float values[kValues];
  std::memcpy(values, &x, sizeof values);
  float peak = 0;
  for (const float value : values) {
    if ((value < 0 ? -value : value) > (peak < 0 ? -peak : peak)) peak = value;
  }
  return peak;
}

/// d as f16 holds it, within its finite range.
F16 stored_scale(float d) { return to_f16(std::clamp(d, -kLargestScale, kLargestScale)); }
float inverse(float d) { return d == 0 ? 0.0f : 1 / d; }

void encode_q8(const Block& x, std::byte* out) {
  const float peak = signed_peak(x);
  const F16 stored = stored_scale((peak < 0 ? -peak : peak) / 127);
  const Four scale = set(inverse(to_float(stored)));
  std::memcpy(out, &stored, sizeof stored);
  for (int i = 0; i < kFours; ++i) {
    const Four codes = nearest(x.v[i] * scale, -127, 127);
    for (int j = 0; j < 4; ++j) out[2 + 4 * i + j] = static_cast<std::byte>(static_cast<int8_t>(codes[j]));
  }
}

constexpr float kQ4Low = -8, kQ4High = 7;

/// Sums over a block for the codes q nearest to x / d: of q x, and of q q.
struct Fit {
  float xq, qq;
};
Fit fit_q4(const Block& x, float d) {
  const Four scale = set(inverse(d));
  Four xq = {}, qq = {};
  for (const Four& v : x.v) {
    const Four codes = nearest(v * scale, kQ4Low, kQ4High);
    xq += v * codes;
    qq += codes * codes;
  }
  return {sum(xq), sum(qq)};
}

float squared_error_q4(const Block& x, float d) {
  const Four scale = set(inverse(d));
  Four total = {};
  for (const Four& v : x.v) {
    const Four error = v - set(d) * nearest(v * scale, kQ4Low, kQ4High);
    total += error * error;
  }
  return sum(total);
}

/// Scales that put the largest value near code -8, and near +7 or beyond, are tried; each set of codes has a best scale
/// of its own, xq / qq, and what it explains of the block, xq^2 / qq, says which set is best.
F16 search_scale_q4(const Block& x) {
  const float peak = signed_peak(x);
  const F16 plain = stored_scale(peak / -8);
  F16 best = plain;
  float best_error = squared_error_q4(x, to_float(plain));
  float most_explained = 0, most_scale = 0;
  constexpr float kCodesOfPeak[] = {-7.0f, -7.3f, -7.6f, -7.8f, -8.0f, -8.2f, -8.5f, -8.8f, -9.2f, 6.6f, 7.0f, 7.5f};
  for (const float code : kCodesOfPeak) {
    const Fit fit = fit_q4(x, peak / code);
    if (fit.qq == 0 || fit.xq * fit.xq <= most_explained * fit.qq) continue;
    most_explained = fit.xq * fit.xq / fit.qq;
    most_scale = fit.xq / fit.qq;
  }
  const Fit again = fit_q4(x, most_scale);
  for (const float d : {most_scale, again.qq == 0 ? most_scale : again.xq / again.qq}) {
    const F16 stored = stored_scale(d);
    const float error = squared_error_q4(x, to_float(stored));
    if (error < best_error) {
      best_error = error;
      best = stored;
    }
  }
  return best;
}

void encode_q4(const Block& x, std::byte* out) {
  const F16 stored = search_scale_q4(x);
  const Four scale = set(inverse(to_float(stored)));
  std::memcpy(out, &stored, sizeof stored);
  for (int i = 0; i < kFours / 2; ++i) {
    const Four low = nearest(x.v[i] * scale, kQ4Low, kQ4High) + set(8);
    const Four high = nearest(x.v[i + kFours / 2] * scale, kQ4Low, kQ4High) + set(8);
    for (int j = 0; j < 4; ++j) {
      out[2 + 4 * i + j] = static_cast<std::byte>(static_cast<int>(low[j]) | static_cast<int>(high[j]) << 4);
    }
  }
}

void decode_q8(const std::byte* block, float* out) {
  F16 stored;
  std::memcpy(&stored, block, sizeof stored);
  const float d = to_float(stored);
  for (int j = 0; j < kValues; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(block[2 + j]));
}

void decode_q4(const std::byte* block, float* out) {
  F16 stored;
  std::memcpy(&stored, block, sizeof stored);
  const float d = to_float(stored);
  for (int j = 0; j < kValues / 2; ++j) {
    const int pair = static_cast<int>(block[2 + j]);
    out[j] = d * static_cast<float>((pair & 15) - 8);
    out[j + kValues / 2] = d * static_cast<float>((pair >> 4) - 8);
  }
}

size_t block_bytes(DType dtype) {
  if (!is_block(dtype)) fail(ErrorKind::kShape, "blocks: got dtype {}, expected a block type", dtype_name(dtype));
  return dtype_bytes(dtype, block_values(dtype));
}

void decode_block(const std::byte* block, DType dtype, float* out) {
  if (dtype == DType::kQ8) return decode_q8(block, out);
  if (dtype == DType::kQ4) return decode_q4(block, out);
  block_form(dtype).decode(reinterpret_cast<const uint8_t*>(block), out);
}

}  // namespace

void decode_blocks(const void* blocks, DType dtype, float* out, size_t count) {
  const size_t size_bytes = block_bytes(dtype), values = block_values(dtype);
  const auto* next = static_cast<const std::byte*>(blocks);
  for (; count >= values; count -= values, next += size_bytes, out += values) decode_block(next, dtype, out);
  if (count == 0) return;
  float last[kMostBlockValues];
  decode_block(next, dtype, last);
  std::copy_n(last, count, out);
}

bool is_encodable(DType dtype) { return is_simple_block(dtype) || block_encoder(dtype) != nullptr; }

void encode_blocks(const float* values, DType dtype, void* blocks, size_t count) {
  if (!is_encodable(dtype)) {
    fail(ErrorKind::kShape, "encode: got dtype {}, expected Q8, Q4, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K", dtype_name(dtype));
  }
  const size_t in_block = block_values(dtype), whole = count / in_block;
  auto* next = static_cast<std::byte*>(blocks);
  if (const BlockEncoder encode = block_encoder(dtype); encode != nullptr) {
    encode(values, whole, reinterpret_cast<uint8_t*>(next));
    if (count == whole * in_block) return;
    float last[kMostBlockValues] = {};
    std::copy(values + whole * in_block, values + count, last);
    return encode(last, 1, reinterpret_cast<uint8_t*>(next) + whole * block_bytes(dtype));
  }
  const size_t size_bytes = block_bytes(dtype);
  const auto encode = dtype == DType::kQ8 ? encode_q8 : encode_q4;
  for (size_t done = 0; done < count; done += kBlockValues, next += size_bytes) {
    Block x = {};
    std::memcpy(&x, values + done, std::min(kBlockValues, count - done) * sizeof(float));
    encode(x, next);
  }
}

}  // namespace carousel
