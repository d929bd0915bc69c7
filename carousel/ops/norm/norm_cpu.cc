// SPDX-License-Identifier: Apache-2.0
// The norms, one row at a time: moments over a row are summed in one fixed order, so a row never depends on the others.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/norm/norm.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 8;

/// Sum over the row of x - shift, or of its square. Four accumulators hide the latency of the additions.
template <bool kSquares>
inline float moment(const float* x, int64_t width, float shift) {
  const Vec s = set1(shift);
  Vec acc[4] = {Vec{}, Vec{}, Vec{}, Vec{}};
  int64_t j = 0;
  for (; j + 4 * kLanes <= width; j += 4 * kLanes) {
    for (int i = 0; i < 4; ++i) {
      const Vec v = load(x + j + i * kLanes) - s;
      acc[i] = kSquares ? fma(v, v, acc[i]) : acc[i] + v;
    }
  }
  for (; j < width; j += kLanes) {
    const Vec v = (j + kLanes <= width ? load(x + j) : load_partial(x + j, width - j, shift)) - s;
    acc[0] = kSquares ? fma(v, v, acc[0]) : acc[0] + v;
  }
  return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

struct Affine {
  float shift, scale;  // normed = (x - shift) * scale
};

inline Affine row_statistics(const float* x, int64_t width, ops::Norm::Kind kind, float eps) {
  const auto count = static_cast<float>(width);
  if (kind == ops::Norm::Kind::kNone) return {0.0f, 1.0f};
  const float mean = kind == ops::Norm::Kind::kLayer ? moment<false>(x, width, 0.0f) / count : 0.0f;
  // From the deviations: E[x^2] - E[x]^2 cancels where the mean is large against the spread.
  const float variance = moment<true>(x, width, mean) / count;
  return {mean, 1.0f / std::sqrt(variance + eps)};
}

inline Vec apply(Vec x, Affine row, const float* weight, const float* bias, int64_t j, int64_t count) {
  Vec v = (x - set1(row.shift)) * set1(row.scale);
  const bool full = count >= kLanes;
  if (weight != nullptr) v = v * (full ? load(weight + j) : load_partial(weight + j, count));
  if (bias != nullptr) v = v + (full ? load(bias + j) : load_partial(bias + j, count));
  return v;
}

inline void add_row(const float* x, const float* y, float* out, int64_t width) {
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) store(out + j, load(x + j) + load(y + j));
  for (; j < width; ++j) out[j] = x[j] + y[j];
}

inline void norm_row(const ops::AddNormArgs& args, const float* x, float* out) {
  const Affine row = row_statistics(x, args.width, args.kind, args.eps);
  int64_t j = 0;
  for (; j + kLanes <= args.width; j += kLanes) {
    store(out + j, apply(load(x + j), row, args.weight, args.bias, j, kLanes));
  }
  if (const int64_t rest = args.width - j; rest > 0) {
    store_partial(out + j, apply(load_partial(x + j, rest), row, args.weight, args.bias, j, rest), rest);
  }
}

inline Vec gated(Vec normed, Vec pre, ops::HeadGate::Kind kind) {
  if (kind == ops::HeadGate::Kind::kSigmoid) return sigmoid(pre) * normed;
  return (pre * sigmoid(pre)) * normed;
}

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

inline void norm_head(const ops::HeadNormArgs& args, int64_t n, int64_t h) {
  const int64_t first = h * args.dv;
  const float* x = args.h + n * args.heads * args.dv + first;  // [Dv]
  float* out = args.out + n * args.heads * args.dv + first;    // [Dv]
  const Affine row = row_statistics(x, args.dv, args.kind, args.eps);
  for (int64_t j = 0; j < args.dv; j += kLanes) {
    const int64_t count = args.dv - j;
    Vec v = apply(load_at(x + j, count), row, args.weight, args.bias, first + j, count);
    if (args.skip.data != nullptr) {
      const Vec skip = load_at(args.skip.data + n * args.skip.stride + first + j, count);
      v = fma(load_at(args.skip_weight + first + j, count), skip, v);
    }
    if (args.gate != ops::HeadGate::Kind::kNone) {
      v = gated(v, load_at(args.pre.data + n * args.pre.stride + first + j, count), args.gate);
    }
    if (count >= kLanes) {
      store(out + j, v);
    } else {
      store_partial(out + j, v, count);
    }
  }
}

}  // namespace

void add_norm(const Stream& stream, const ops::AddNormArgs& args) {
  parallel_ranges(stream, args.rows, args.width * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* sum_n = args.sum + n * args.width;
      if (args.y != nullptr) add_row(args.x + n * args.width, args.y + n * args.width, sum_n, args.width);
      if (args.kind != ops::Norm::Kind::kNone) norm_row(args, sum_n, args.normed + n * args.width);
    }
  });
}

void head_norm(const Stream& stream, const ops::HeadNormArgs& args) {
  parallel_ranges(stream, args.rows, args.heads * args.dv * 4 * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t h = 0; h < args.heads; ++h) norm_head(args, n, h);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
