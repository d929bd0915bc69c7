// SPDX-License-Identifier: Apache-2.0
// The gradient of a bias: a sum over rows, lanes along the columns.
#include "carousel/ops/linear/linear_backward_cpu.h"

#include "carousel/cpu/divide.h"
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

}  // namespace

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
