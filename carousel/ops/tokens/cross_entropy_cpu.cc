// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood: the row's maximum, then the exponentials below it, in f32, summed in f64 lanes.
#include "carousel/ops/tokens/cross_entropy_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

typedef double WideVec __attribute__((vector_size(sizeof(double) * static_cast<size_t>(kLanes))));

inline float row_max(const float* x, int64_t count) {
  Vec best = set1(x[0]);
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) best = max(best, load(x + j));
  if (j < count) best = max(best, load_partial(x + j, count - j, x[0]));
  return max_lane(best);
}

inline double exp_sum(const float* x, int64_t count, float shift) {
  const Vec s = set1(shift);
  WideVec total = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) total += __builtin_convertvector(exp(load(x + j) - s), WideVec);
  if (j < count) {
    total += __builtin_convertvector(exp(load_partial(x + j, count - j, -INFINITY) - s), WideVec);
  }
  double lanes[kLanes];
  std::memcpy(lanes, &total, sizeof total);
  double out = 0;
  for (int64_t i = 0; i < kLanes; ++i) out += lanes[i];
  return out;
}

}  // namespace

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
