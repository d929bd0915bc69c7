// SPDX-License-Identifier: Apache-2.0
// Rounding, element by element.
#include "carousel/ops/rounding/rounding_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/rounding.h"

namespace carousel::cpu::CAROUSEL_ISA {

void round_to(const Stream& stream, const ops::RoundArgs& args) {
  const Rounding round(args.dtype);
  parallel_ranges(stream, args.rows, args.width * 2, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* x = args.x.f32() + n * args.x.stride;  // [width]
      for (int64_t j = 0; j < args.width; ++j) x[j] = round(x[j]);
    }
  });
}

void round_states(const Stream& stream, const ops::RoundStatesArgs& args) {
  const Rounding round(args.dtype);
  parallel_ranges(stream, args.seqs.batch, args.count * 2, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      if (args.seqs.length(s) == 0) continue;
      for (int64_t j = 0; j < args.count; ++j) args.states[s][j] = round(args.states[s][j]);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
