// SPDX-License-Identifier: Apache-2.0
// Rows copied whole: bound by memory.
#include "carousel/ops/rows/rows_cpu.h"

#include <cstring>

#include "carousel/cpu/divide.h"

namespace carousel::cpu::CAROUSEL_ISA {

void gather_rows(const Stream& stream, const ops::GatherRowsArgs& args) {
  parallel_ranges(stream, args.count, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(args.out.f32() + i * args.out.stride, args.x.f32() + args.rows[i] * args.x.stride,
                  sizeof(float) * static_cast<size_t>(args.width));
    }
  });
}

void copy_columns(const Stream& stream, const ops::CopyColumnsArgs& args) {
  parallel_ranges(stream, args.rows, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      std::memcpy(args.out.f32() + n * args.out.stride, args.x.f32() + n * args.x.stride,
                  sizeof(float) * static_cast<size_t>(args.width));
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
