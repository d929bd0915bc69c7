// SPDX-License-Identifier: Apache-2.0
// Squared errors: bound by memory.
#include "carousel/ops/optimiser/squared_error_cpu.h"

#include "carousel/cpu/divide.h"

namespace carousel::cpu::CAROUSEL_ISA {

void squared_error(const Stream& stream, const ops::SquaredErrorArgs& args) {
  parallel_ranges(stream, args.N, args.O * 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const y = args.y.f32() + n * args.y.stride;
      const float* const wanted = args.wanted.f32() + n * args.wanted.stride;
      double sum = 0;
      for (int64_t j = 0; j < args.O; ++j) {
        const float difference = y[j] - wanted[j];
        sum += static_cast<double>(difference) * static_cast<double>(difference);
        if (args.d_y.data != nullptr) args.d_y.f32()[n * args.d_y.stride + j] = 2 * args.scale * difference;
      }
      args.losses[n] = static_cast<float>(sum);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
