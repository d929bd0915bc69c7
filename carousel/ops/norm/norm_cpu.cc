// SPDX-License-Identifier: Apache-2.0
// The norms, one row at a time: moments over a row are summed in one fixed order, so a row never depends on the others.
#include "carousel/ops/norm/norm_cpu.h"
#include "carousel/cpu/divide.h"
#include "carousel/ops/norm/norm_rows_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 8;

inline Vec apply(Vec x, Affine row, const ops::NormArgs& norm, int64_t j, int64_t count) {
  Vec v = (x - set1(row.shift)) * set1(row.scale);
  const bool full = count >= kLanes;
  if (norm.weight != nullptr) {
    const Vec weight = full ? load(norm.weight + j) : load_partial(norm.weight + j, count);
    v = v * (norm.weight_offset != 0 ? weight + set1(norm.weight_offset) : weight);
  }
  if (norm.bias != nullptr) v = v + (full ? load(norm.bias + j) : load_partial(norm.bias + j, count));
  return v;
}

inline void add_row(const float* x, const float* y, float* out, int64_t width) {
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) store(out + j, load(x + j) + load(y + j));
  for (; j < width; ++j) out[j] = x[j] + y[j];
}

inline void norm_row(const ops::AddNormArgs& args, const float* x, float* out) {
  const ops::NormArgs norm = args.norm;  // a copy: behind the reference, every store would reload its fields
  const Affine row = row_statistics(x, args.width, norm);
  int64_t j = 0;
  for (; j + kLanes <= args.width; j += kLanes) store(out + j, apply(load(x + j), row, norm, j, kLanes));
  if (const int64_t rest = args.width - j; rest > 0) {
    store_partial(out + j, apply(load_partial(x + j, rest), row, norm, j, rest), rest);
  }
}

inline Vec gated(Vec normed, Vec pre, ops::NormGate::Kind kind) {
  if (kind == ops::NormGate::Kind::kSigmoid) return sigmoid(pre) * normed;
  return (pre * sigmoid(pre)) * normed;
}

inline void norm_head(const ops::HeadNormArgs& args, int64_t n, int64_t h) {
  const int64_t first = h * args.dv;
  const float* x = args.h.f32() + n * args.h.stride + first;  // [Dv]
  float* out = args.out.f32() + n * args.out.stride + first;  // [Dv]
  const Affine row = row_statistics(x, args.dv, args.norm);
  for (int64_t j = 0; j < args.dv; j += kLanes) {
    const int64_t count = args.dv - j;
    Vec v = apply(load_at(x + j, count), row, args.norm, first + j, count);
    if (args.skip.data != nullptr) {
      const Vec skip = load_at(args.skip.f32() + n * args.skip.stride + first + j, count);
      v = fma(load_at(args.skip_weight + first + j, count), skip, v);
    }
    if (args.gate != ops::NormGate::Kind::kNone) {
      v = gated(v, load_at(args.pre.f32() + n * args.pre.stride + first + j, count), args.gate);
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
      float* sum_n = args.sum.f32() + n * args.sum.stride;  // [D]
      if (args.y.data != nullptr) {
        add_row(args.x.f32() + n * args.x.stride, args.y.f32() + n * args.y.stride, sum_n, args.width);
      }
      if (args.norm.kind != ops::Norm::Kind::kNone) norm_row(args, sum_n, args.normed.f32() + n * args.normed.stride);
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
