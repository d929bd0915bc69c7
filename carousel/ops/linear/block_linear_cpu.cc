// SPDX-License-Identifier: Apache-2.0
// Narrow blocks: lanes run along the outputs, and each reads the input of its own block.
#include "carousel/ops/linear/block_linear_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

void project_row(const ops::BlockLinearArgs& args, const float* x, float* y) {
  for (int64_t j = 0; j < args.width; j += kLanes) {
    const int64_t count = args.width - j, lanes = count < kLanes ? count : kLanes;
    int64_t first[kLanes] = {};  // the first input of each lane's block
    for (int64_t i = 0; i < lanes; ++i) first[i] = (j + i) / args.size * args.size;
    Vec acc = {};
    for (int64_t d = 0; d < args.size; ++d) {
      float inputs[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) inputs[i] = x[first[i] + d];
      acc = fma(load_at(args.weight + d * args.width + j, count), load(inputs), acc);
    }
    if (args.bias != nullptr) acc = acc + load_at(args.bias + j, count);
    if (count >= kLanes) {
      store(y + j, acc);
    } else {
      store_partial(y + j, acc, count);
    }
  }
}

}  // namespace

void block_linear(const Stream& stream, const ops::BlockLinearArgs& args) {
  parallel_ranges(stream, args.rows, args.width * args.size * 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      project_row(args, args.x.f32() + n * args.x.stride, args.y.f32() + n * args.y.stride);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
