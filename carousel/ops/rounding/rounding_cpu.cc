// SPDX-License-Identifier: Apache-2.0
#include "carousel/cpu/rounding.h"

#include "carousel/cpu/divide.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::cpu::CAROUSEL_ISA {

void round_to(const Stream& stream, const ops::RoundArgs& args) {
  const Rounding round(args.dtype);
  parallel_ranges(stream, args.rows, args.width * 2, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* x = args.x + n * args.stride;  // [width]
      for (int64_t j = 0; j < args.width; ++j) x[j] = round(x[j]);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
