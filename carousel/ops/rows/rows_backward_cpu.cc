// SPDX-License-Identifier: Apache-2.0
// The gradient of gathered rows: bound by memory. A row of x that was asked for more than once gets the sum, added in
// the order of the result's rows.
#include <cstring>

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/rows/rows_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kStrip = 256;  // columns of a task

void add_row(const float* d, float* d_x, int64_t width) {
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) store(d_x + j, load(d_x + j) + load(d + j));
  for (; j < width; ++j) d_x[j] += d[j];
}

}  // namespace

void gather_rows_backward(const Stream& stream, const ops::GatherRowsBackwardArgs& args) {
  const int64_t strips = (args.width + kStrip - 1) / kStrip;
  parallel_ranges(stream, strips, (args.rows + args.count) * kStrip, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kStrip, past = end * kStrip < args.width ? end * kStrip : args.width;
    for (int64_t n = 0; n < args.rows; ++n) {
      std::memset(args.d_x.f32() + n * args.d_x.stride + first, 0, sizeof(float) * static_cast<size_t>(past - first));
    }
    for (int64_t i = 0; i < args.count; ++i) {
      add_row(args.d.f32() + i * args.d.stride + first, args.d_x.f32() + args.from[i] * args.d_x.stride + first,
              past - first);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
