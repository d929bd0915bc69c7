// SPDX-License-Identifier: Apache-2.0
// Encoders of GGUF's blocks with searched scales, the least squared error of the decoded values being the aim. Layouts
// are those of quant_decode.cc. quant_search.h finds the scales of a block's parts; K blocks hold them as small
// integers times one or two numbers of the block, which are chosen here, integers and numbers in turn.
#include "carousel/core/quant_encode.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "carousel/core/quant_search.h"

namespace carousel {
namespace {

const float kLargestHalf = largest_value(DType::kF16);

// f16 as its bits and as the number that a reader sees.
struct Half {
  F16 stored;
  float value;
  explicit Half(float x) : stored(to_f16(std::clamp(x, -kLargestHalf, kLargestHalf))), value(to_float(stored)) {}
  void put(uint8_t* out) const { std::memcpy(out, &stored, sizeof stored); }
};

// Q4_K and Q5_K: eight parts of 32, scale and drop six bits each, times d and dmin.

using Eight = Lanes<8>;
using Parts32 = Parts<8, 32>;

struct Scales45 {
  Eight scale, drop;  // integers in [0, 63]
  Half d{0}, dmin{0};
  float error = 3e38f;
};

Eight squared_error(const Parts32& parts, const Eight& scale, const Eight& drop, float top) {
  const Eight over = inverse(scale), start = drop * over;
  Eight total = {};
  for (const Eight& x : parts.x) {
    const Eight error = x - (nearest(x * over + start, 0, top) * scale - drop);
    total += error * error;
  }
  return total;
}

// The integers near scale / d and drop / dmin of the least error.
void choose_integers(const Parts32& parts, float top, const Eight& scale, const Eight& drop, Scales45& out) {
  const Eight over_d = Eight::of(out.d.value == 0 ? 0 : 1 / out.d.value);
  const Eight over_dmin = Eight::of(out.dmin.value == 0 ? 0 : 1 / out.dmin.value);
  const Eight first_scale = nearest(scale * over_d, 0, 63), first_drop = nearest(drop * over_dmin, 0, 63);
  Eight best = Eight::of(3e38f);
  for (int i = -1; i <= 1; ++i) {
    const Eight trial_scale = nearest(first_scale + static_cast<float>(i), 0, 63);
    for (int j = -1; j <= 1; ++j) {
      const Eight trial_drop = nearest(first_drop + static_cast<float>(j), 0, 63);
      const Eight error = squared_error(parts, trial_scale * out.d.value, trial_drop * out.dmin.value, top);
      out.scale = where_less(error, best, trial_scale, out.scale);
      out.drop = where_less(error, best, trial_drop, out.drop);
      best = least(error, best);
    }
  }
  out.error = best.sum();
}

// d and dmin by least squares over the whole block, for the codes that the integers give. False: they stay open.
bool refit(const Parts32& parts, float top, const Scales45& from, Scales45& out) {
  const Eight scale = from.scale * from.d.value, drop = from.drop * from.dmin.value;
  const Eight over = inverse(scale), start = drop * over;
  Eight sum_q = {}, sum_qq = {}, sum_xq = {};
  for (const Eight& x : parts.x) {
    const Eight q = nearest(x * over + start, 0, top);
    sum_q += q;
    sum_qq += q * q;
    sum_xq += q * x;
  }
  // x ~ d a - dmin b with a = scale q, b = drop
  const float aa = (from.scale * from.scale * sum_qq).sum(), ab = (from.scale * from.drop * sum_q).sum();
  const float bb = (from.drop * from.drop).sum() * 32;
  const float xa = (from.scale * sum_xq).sum(), xb = (from.drop * parts.sum_x).sum();
  const float spread = aa * bb - ab * ab;
  if (!(aa > 0)) return false;
  const bool both = spread > 1e-6f * aa * bb;
  out.d = Half(both ? (xa * bb - xb * ab) / spread : xa / aa);
  out.dmin = Half(both ? (xa * ab - xb * aa) / spread : 0);
  return out.d.value > 0 && out.dmin.value >= 0;
}

float largest(const Eight& x) {
  float most = 0;
  for (int lane = 0; lane < 8; ++lane) most = std::max(most, x[lane]);
  return most;
}

Scales45 search45(const Parts32& parts, float top) {
  const Affine<8> best = search_affine<8, 32, false>(parts, top);
  Scales45 scales;
  scales.d = Half(largest(best.scale) / 63);
  scales.dmin = Half(largest(best.drop) / 63);
  choose_integers(parts, top, best.scale, best.drop, scales);
  Scales45 next;
  if (!refit(parts, top, scales, next)) return scales;
  choose_integers(parts, top, scales.scale * scales.d.value, scales.drop * scales.dmin.value, next);
  return next.error < scales.error ? next : scales;
}

// Writes d, dmin and the twelve bytes of the six-bit pairs.
void put_scales45(const Scales45& scales, uint8_t* out) {
  scales.d.put(out);
  scales.dmin.put(out + 2);
  uint8_t* const packed = out + 4;
  for (int j = 0; j < 4; ++j) {
    const int scale = static_cast<int>(scales.scale[j]), drop = static_cast<int>(scales.drop[j]);
    const int scale4 = static_cast<int>(scales.scale[j + 4]), drop4 = static_cast<int>(scales.drop[j + 4]);
    packed[j] = static_cast<uint8_t>(scale | scale4 >> 4 << 6);
    packed[j + 4] = static_cast<uint8_t>(drop | drop4 >> 4 << 6);
    packed[j + 8] = static_cast<uint8_t>((scale4 & 15) | (drop4 & 15) << 4);
  }
}

void encode45(const float* values, float top, uint8_t* out) {
  Parts32 parts;
  read_parts(values, 8, parts);
  const Scales45 scales = search45(parts, top);
  put_scales45(scales, out);
  uint8_t* const fifth = top > 15 ? out + 16 : nullptr;
  uint8_t* const quants = fifth == nullptr ? out + 16 : out + 48;
  if (fifth != nullptr) std::memset(fifth, 0, 32);
  const Eight drop = scales.drop * scales.dmin.value, over = inverse(scales.scale * scales.d.value);
  const Eight start = drop * over;
  for (int l = 0; l < 32; ++l) {
    const Eight q = nearest(parts.x[l] * over + start, 0, top);
    for (int j = 0; j < 8; j += 2) {
      const int low = static_cast<int>(q[j]), high = static_cast<int>(q[j + 1]);
      quants[16 * j + l] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
      if (fifth != nullptr) fifth[l] = static_cast<uint8_t>(fifth[l] | (low >> 4) << j | (high >> 4) << (j + 1));
    }
  }
}

// Q6_K: sixteen parts of 16, scales of eight bits times d.

using Sixteen = Lanes<16>;
using Parts16 = Parts<16, 16>;

struct Scales6 {
  Sixteen scale;  // integers in [-128, 127]
  Half d{0};
  float error = 3e38f;
};

Sixteen squared_error(const Parts16& parts, const Sixteen& scale) {
  const Sixteen over = inverse(scale);
  Sixteen total = {};
  for (const Sixteen& x : parts.x) {
    const Sixteen error = x - nearest(x * over, -32, 31) * scale;
    total += error * error;
  }
  return total;
}

void choose_integers(const Parts16& parts, const Sixteen& scale, Scales6& out) {
  const Sixteen first = nearest(scale * (out.d.value == 0 ? 0 : 1 / out.d.value), -128, 127);
  Sixteen best = Sixteen::of(3e38f);
  for (const float step : {0.0f, -1.0f, 1.0f, -2.0f, 2.0f}) {
    const Sixteen trial = nearest(first + step, -128, 127);
    const Sixteen error = squared_error(parts, trial * out.d.value);
    out.scale = where_less(error, best, trial, out.scale);
    best = least(error, best);
  }
  out.error = best.sum();
}

Scales6 search6(const Parts16& parts) {
  const Scaled<16> best = search_scale(parts, 31);
  float peak = 0;
  for (int lane = 0; lane < 16; ++lane) {
    if (best.scale[lane] * best.scale[lane] > peak * peak) peak = best.scale[lane];
  }
  Scales6 scales;
  scales.d = Half(peak == 0 ? 0 : peak / -128);
  choose_integers(parts, best.scale, scales);
  const Sixteen over = inverse(scales.scale * scales.d.value);
  Sixteen sum_qq = {}, sum_xq = {};
  for (const Sixteen& x : parts.x) {
    const Sixteen q = nearest(x * over, -32, 31);
    sum_qq += q * q;
    sum_xq += q * x;
  }
  const float aa = (scales.scale * scales.scale * sum_qq).sum(), xa = (scales.scale * sum_xq).sum();
  if (!(aa > 0)) return scales;
  Scales6 next;
  next.d = Half(xa / aa);
  choose_integers(parts, scales.scale * scales.d.value, next);
  return next.error < scales.error ? next : scales;
}

void encode6(const float* values, uint8_t* out) {
  Parts16 parts;
  read_parts(values, 16, parts);
  const Scales6 scales = search6(parts);
  const Sixteen over = inverse(scales.scale * scales.d.value);
  uint8_t codes[256];
  for (int i = 0; i < 16; ++i) {
    const Sixteen q = nearest(parts.x[i] * over, -32, 31);
    for (int lane = 0; lane < 16; ++lane) codes[16 * lane + i] = static_cast<uint8_t>(static_cast<int>(q[lane]) + 32);
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t* const from = codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      out[64 * half + l] = static_cast<uint8_t>((from[l] & 15) | (from[l + 64] & 15) << 4);
      out[64 * half + l + 32] = static_cast<uint8_t>((from[l + 32] & 15) | (from[l + 96] & 15) << 4);
      out[128 + 32 * half + l] = static_cast<uint8_t>(from[l] >> 4 | (from[l + 32] >> 4) << 2 |
                                                      (from[l + 64] >> 4) << 4 | (from[l + 96] >> 4) << 6);
    }
  }
  for (int lane = 0; lane < 16; ++lane) {
    out[192 + lane] = static_cast<uint8_t>(static_cast<int8_t>(scales.scale[lane]));
  }
  scales.d.put(out + 208);
}

// Q5_0 and Q5_1: blocks of 32 on their own, eight at a time.

// Writes the five bits of 32 codes: a word of the fifth bits, then sixteen pairs.
void put_codes5(const uint8_t* codes, uint8_t* out) {
  std::memset(out, 0, 4);
  for (int j = 0; j < 32; ++j) out[j / 8] = static_cast<uint8_t>(out[j / 8] | (codes[j] >> 4) << (j % 8));
  for (int j = 0; j < 16; ++j) out[4 + j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

void encode_q4_k(const float* values, size_t blocks, uint8_t* out) {
  for (size_t b = 0; b < blocks; ++b) encode45(values + 256 * b, 15, out + 144 * b);
}
void encode_q5_k(const float* values, size_t blocks, uint8_t* out) {
  for (size_t b = 0; b < blocks; ++b) encode45(values + 256 * b, 31, out + 176 * b);
}
void encode_q6_k(const float* values, size_t blocks, uint8_t* out) {
  for (size_t b = 0; b < blocks; ++b) encode6(values + 256 * b, out + 210 * b);
}

void encode_q5_0(const float* values, size_t blocks, uint8_t* out) {
  for (size_t b = 0; b < blocks; b += 8) {
    const int count = static_cast<int>(std::min<size_t>(8, blocks - b));
    Parts32 parts;
    read_parts(values + 32 * b, count, parts);
    const Scaled<8> best = search_scale(parts, 15);
    for (int lane = 0; lane < count; ++lane, out += 22) {
      const Half d(best.scale[lane]);
      const float over = d.value == 0 ? 0 : 1 / d.value;
      uint8_t codes[32];
      for (int j = 0; j < 32; ++j) {
        const float q = nearest(Lanes<4>::of(parts.x[j][lane] * over), -16, 15)[0];
        codes[j] = static_cast<uint8_t>(static_cast<int>(q) + 16);
      }
      d.put(out);
      put_codes5(codes, out + 2);
    }
  }
}

void encode_q5_1(const float* values, size_t blocks, uint8_t* out) {
  for (size_t b = 0; b < blocks; b += 8) {
    const int count = static_cast<int>(std::min<size_t>(8, blocks - b));
    Parts32 parts;
    read_parts(values + 32 * b, count, parts);
    const Affine<8> best = search_affine<8, 32, true>(parts, 31);
    for (int lane = 0; lane < count; ++lane, out += 24) {
      const Half d(best.scale[lane]), m(0 - best.drop[lane]);
      const float over = d.value == 0 ? 0 : 1 / d.value;
      uint8_t codes[32];
      for (int j = 0; j < 32; ++j) {
        const float q = nearest(Lanes<4>::of((parts.x[j][lane] - m.value) * over), 0, 31)[0];
        codes[j] = static_cast<uint8_t>(static_cast<int>(q));
      }
      d.put(out);
      m.put(out + 2);
      put_codes5(codes, out + 4);
    }
  }
}

}  // namespace

BlockEncoder block_encoder(DType dtype) {
  switch (dtype) {
    case DType::kQ50:
      return encode_q5_0;
    case DType::kQ51:
      return encode_q5_1;
    case DType::kQ4K:
      return encode_q4_k;
    case DType::kQ5K:
      return encode_q5_k;
    case DType::kQ6K:
      return encode_q6_k;
    default:
      return nullptr;
  }
}

}  // namespace carousel
