// SPDX-License-Identifier: Apache-2.0
// Gradients of one tensor joined: bound by memory.
#include "carousel/ops/tape_cpu.h"

#include <cstring>

#include "carousel/cpu/divide.h"

namespace carousel::cpu::CAROUSEL_ISA {

void add_to(const Stream& stream, const ops::JoinArgs& args) {
  parallel_ranges(stream, args.rows, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const x_n = args.x.f32() + n * args.x.stride;
      float* const y_n = args.y.f32() + n * args.y.stride;
      for (int64_t j = 0; j < args.width; ++j) y_n[j] += x_n[j];
    }
  });
}

void fill_zero(const Stream& stream, const ops::JoinArgs& args) {
  parallel_ranges(stream, args.rows, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      std::memset(args.y.f32() + n * args.y.stride, 0, sizeof(float) * static_cast<size_t>(args.width));
    }
  });
}

void copy_states(const Stream& stream, const ops::CopyStatesArgs& args) {
  parallel_ranges(stream, args.batch, args.count, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      std::memcpy(args.to.f32() + s * args.to.stride, args.from[s], sizeof(float) * static_cast<size_t>(args.count));
    }
  });
}

void write_states(const Stream& stream, const ops::WriteStatesArgs& args) {
  parallel_ranges(stream, args.batch, args.count, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      std::memcpy(args.to[s], args.from.f32() + s * args.from.stride, sizeof(float) * static_cast<size_t>(args.count));
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
