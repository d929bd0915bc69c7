// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood: the row's maximum, then the exponentials below it, in f32, summed in f64 lanes.
#include "carousel/ops/tokens/cross_entropy_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/ops/tokens/softmax_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
void cross_entropy(const Stream& stream, const ops::CrossEntropyArgs& args) {
  parallel_ranges(stream, args.rows, args.vocab * 32, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* logits = args.logits.f32() + n * args.logits.stride;  // [V]
      const float best = row_max(logits, args.vocab);
      const double total = exp_sum(logits, args.vocab, best);
      args.nll.f32()[n] = static_cast<float>(std::log(total) + (static_cast<double>(best) - logits[args.targets[n]]));
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
