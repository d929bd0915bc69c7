// SPDX-License-Identifier: Apache-2.0
// The gradient of a bias, a sum over rows, and of a weight with few outputs. Lanes lie along the columns.
#include "carousel/ops/linear/linear_backward_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/rounding.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// Sums up to kVecs vectors of columns, of which the last may be cut after `lanes` lanes.
constexpr int kVecs = 4;
constexpr int64_t kColumns = kVecs * kLanes;

void sum_columns(const ops::SumRowsArgs& args, int64_t first, int64_t count) {
  const float* x = args.x.f32() + first;
  float* const sum = args.sum + first;
  if (count == kColumns) {
    Vec total[kVecs];
    for (int v = 0; v < kVecs; ++v) total[v] = load(sum + v * kLanes);
    for (int64_t n = 0; n < args.N; ++n, x += args.x.stride) {
      for (int v = 0; v < kVecs; ++v) total[v] += load(x + v * kLanes);
    }
    for (int v = 0; v < kVecs; ++v) store(sum + v * kLanes, total[v]);
    return;
  }
  for (int64_t j = 0; j < count; j += kLanes) {
    const int64_t lanes = count - j < kLanes ? count - j : kLanes;
    Vec total = load_partial(sum + j, lanes);
    for (int64_t n = 0; n < args.N; ++n) total += load_partial(x + n * args.x.stride + j, lanes);
    store_partial(sum + j, total, lanes);
  }
}

template <bool kRounds, class T>
CAROUSEL_INLINE T factor(T value) {
  if constexpr (kRounds) return as_bf16(value);
  return value;
}

/// d_w of R outputs from `m` on and two vectors of columns from `first` on, of which `count` are there.
template <int R, bool kRounds>
void add_few(const ops::LinearDwArgs& args, int64_t m, int64_t first, int64_t count) {
  float* const d_w = args.d_w + m * args.K + first;
  const float *x = args.x.f32() + first, *d_y = args.d_y.f32() + m;
  const bool whole = count == 2 * kLanes;
  const int64_t low = count < kLanes ? count : kLanes, high = count - low;
  Vec sum[R][2];
  for (int r = 0; r < R; ++r) {
    sum[r][0] = load_partial(d_w + r * args.K, low);
    sum[r][1] = load_partial(d_w + r * args.K + low, high);
  }
  for (int64_t n = 0; n < args.N; ++n, x += args.x.stride, d_y += args.d_y.stride) {
    const Vec left = factor<kRounds>(whole ? load(x) : load_partial(x, low));
    const Vec right = factor<kRounds>(whole ? load(x + kLanes) : load_partial(x + low, high));
    for (int r = 0; r < R; ++r) {
      const Vec slope = set1(factor<kRounds>(d_y[r]));
      sum[r][0] = fma(slope, left, sum[r][0]);
      sum[r][1] = fma(slope, right, sum[r][1]);
    }
  }
  for (int r = 0; r < R; ++r) {
    store_partial(d_w + r * args.K, sum[r][0], low);
    store_partial(d_w + r * args.K + low, sum[r][1], high);
  }
}

template <bool kRounds>
void add_few_outputs(const Stream& stream, const ops::LinearDwArgs& args) {
  constexpr int64_t kWidth = 2 * kLanes;
  parallel_ranges(stream, (args.K + kWidth - 1) / kWidth, 2 * args.N * args.M * kWidth,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t group = begin; group < end; ++group) {
                      const int64_t first = group * kWidth, count = args.K - first < kWidth ? args.K - first : kWidth;
                      int64_t m = 0;
                      for (; m + 4 <= args.M; m += 4) add_few<4, kRounds>(args, m, first, count);
                      for (; m < args.M; ++m) add_few<1, kRounds>(args, m, first, count);
                    }
                  });
}

}  // namespace

void linear_dw_few(const Stream& stream, const ops::LinearDwArgs& args) {
  (args.rounds ? add_few_outputs<true> : add_few_outputs<false>)(stream, args);
}

void sum_rows(const Stream& stream, const ops::SumRowsArgs& args) {
  const int64_t groups = (args.M + kColumns - 1) / kColumns;
  parallel_ranges(stream, groups, args.N * kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * kColumns;
      sum_columns(args, first, args.M - first < kColumns ? args.M - first : kColumns);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
