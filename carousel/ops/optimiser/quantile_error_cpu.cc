// SPDX-License-Identifier: Apache-2.0
// Quantile errors: bound by memory.
#include "carousel/ops/optimiser/quantile_error_cpu.h"

#include "carousel/cpu/divide.h"

namespace carousel::cpu::CAROUSEL_ISA {

void quantile_error(const Stream& stream, const ops::QuantileErrorArgs& args) {
  parallel_ranges(stream, args.N, args.Q * args.P * 8, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const y = args.y.f32() + n * args.y.stride;
      const float* const wanted = args.wanted.f32() + n * args.wanted.stride;
      float* const d_y = args.d_y.data != nullptr ? args.d_y.f32() + n * args.d_y.stride : nullptr;
      double sum = 0;
      for (int64_t i = 0; i < args.Q * args.P; ++i) {
        const double level = args.levels[i / args.P];
        const float target = wanted[i % args.P];
        const bool missing = target != target;  // NaN
        const double difference = missing ? 0 : static_cast<double>(target) - static_cast<double>(y[i]);
        sum += (difference >= 0 ? level : level - 1) * difference;
        if (d_y == nullptr) continue;
        const double slope = missing || difference == 0 ? 0 : difference > 0 ? -level : 1 - level;
        d_y[i] = static_cast<float>(slope / static_cast<double>(args.Q)) * args.scale;
      }
      args.losses[n] = static_cast<float>(sum / static_cast<double>(args.Q));
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
