// SPDX-License-Identifier: Apache-2.0
// The norms, one row at a time: moments over a row are summed in one fixed order, so a row never depends on the others.
#include "carousel/ops/norm/norm_cpu.h"
#include "carousel/cpu/divide.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/store_past.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/ops/norm/norm_rows_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 8;
constexpr int64_t kAheadFloats = 512;  // of large rows: the hardware begins anew with every page of memory
constexpr int64_t kNearFloats = 2048;  // the first level of cache holds two rows of x and y up to this width

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

/// A row of whole vectors whose results are stored past the caches: x + y is formed again from the first level of cache
/// rather than read back. Memory is read on while results are written: the next row's x and y are fetched then.
inline void add_norm_row_past(const ops::AddNormArgs& args, const float* x, const float* y, float* sum_n,
                              float* normed) {
  const ops::NormArgs norm = args.norm;
  const auto count = static_cast<float>(args.width);
  const bool centred = norm.kind == ops::Norm::Kind::kLayer;
  const auto read = [&](int64_t j, int64_t) CAROUSEL_INLINE_LAMBDA {
    if (j % kLineFloats == 0) {
      prefetch_far(x + j + kAheadFloats);
      prefetch_far(y + j + kAheadFloats);
    }
    return load(x + j) + load(y + j);
  };
  const float mean = centred ? moment_of<false>(read, args.width, 0.0f) / count : 0.0f;
  const float variance = moment_of<true>(read, args.width, mean) / count;
  const Affine row = {mean, ops::norm_scale(variance, norm.eps)};
  const bool fetches = args.width <= kNearFloats;
  for (int64_t j = 0; j < args.width; j += kLanes) {
    if (fetches && j % kLineFloats == 0) {
      prefetch_near(x + args.x.stride + j);
      prefetch_near(y + args.y.stride + j);
    }
    const Vec v = load(x + j) + load(y + j);
    store_past(sum_n + j, v);
    store_past(normed + j, apply(v, row, norm, j, kLanes));
  }
}

/// Whether add_norm takes rows by the function above.
inline bool goes_past(const ops::AddNormArgs& args) {
  return args.y.data != nullptr && args.norm.kind != ops::Norm::Kind::kNone && args.width % kLanes == 0 &&
         stores_past(args.sum.f32(), args.sum.stride, args.rows, args.width) &&
         stores_past(args.normed.f32(), args.normed.stride, args.rows, args.width);
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
      v = ops::norm_gate<VecMath>(args.gate, load_at(args.pre.f32() + n * args.pre.stride + first + j, count)) * v;
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
  const bool past = goes_past(args);
  parallel_ranges(stream, args.rows, args.width * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* sum_n = args.sum.f32() + n * args.sum.stride;           // [D]
      float* normed_n = args.normed.f32() + n * args.normed.stride;  // [D]
      const float* x_n = args.x.f32() + n * args.x.stride;           // [D]
      if (past) {
        add_norm_row_past(args, x_n, args.y.f32() + n * args.y.stride, sum_n, normed_n);
        continue;
      }
      if (args.y.data != nullptr) add_row(x_n, args.y.f32() + n * args.y.stride, sum_n, args.width);
      if (args.norm.kind != ops::Norm::Kind::kNone) norm_row(args, sum_n, normed_n);
    }
    if (past) end_stores_past();
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
