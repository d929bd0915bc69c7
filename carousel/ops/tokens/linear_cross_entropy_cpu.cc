// SPDX-License-Identifier: Apache-2.0
// The gradient of a row's loss with respect to its logits: (softmax - one at the target) * scale, through the soft cap.
#include "carousel/ops/tokens/linear_cross_entropy_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/ops/tokens/softmax_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// z becomes exp(z - shift) * factor, times the slope 1 - (z / cap)^2 of the cap; inverse_cap is 0 without one.
inline Vec slope(Vec z, float shift, float factor, float inverse_cap) {
  const Vec part = z * set1(inverse_cap);
  return exp(z - set1(shift)) * set1(factor) * (set1(1.0f) - part * part);
}

float backward_row(const ops::SoftmaxBackwardArgs& args, float* z, int32_t target) {
  const float best = row_max(z, args.V);
  const double total = exp_sum(z, args.V, best);
  const float loss = static_cast<float>(std::log(total) + (static_cast<double>(best) - z[target]));
  const float inverse_cap = args.soft_cap > 0 ? 1 / args.soft_cap : 0, part = z[target] * inverse_cap;
  const float factor = static_cast<float>(static_cast<double>(args.scale) / total);
  // At the target the two terms nearly cancel once the model is sure, so they meet in f64.
  const double probability = std::exp(static_cast<double>(z[target]) - static_cast<double>(best)) / total;
  const float at_target = static_cast<float>((probability - 1) * static_cast<double>(args.scale)) * (1 - part * part);
  int64_t j = 0;
  for (; j + kLanes <= args.V; j += kLanes) store(z + j, slope(load(z + j), best, factor, inverse_cap));
  if (const int64_t lanes = args.V - j; lanes > 0) {
    store_partial(z + j, slope(load_partial(z + j, lanes), best, factor, inverse_cap), lanes);
  }
  z[target] = at_target;
  return loss;
}

}  // namespace

void softmax_backward(const Stream& stream, const ops::SoftmaxBackwardArgs& args) {
  parallel_ranges(stream, args.rows, args.V * 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) args.nll[n] = backward_row(args, args.logits + n * args.V, args.targets[n]);
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
