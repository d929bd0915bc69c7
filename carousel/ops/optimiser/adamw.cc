// SPDX-License-Identifier: Apache-2.0
// The constants of a step, and the calls of the kernels.
#include "carousel/ops/optimiser/adamw.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "carousel/core/assert.h"
#include "carousel/ops/optimiser/adamw_cpu.h"

namespace carousel::ops {

void adamw(const Stream& stream, const AdamW& options, const AdamWArrays& arrays) {
  if (arrays.count == 0 || stream.device() == Device::kMeta) return;
  CAROUSEL_ASSERT(arrays.first >= 0 && arrays.first + arrays.count <= arrays.gradients.count());
  const auto step = static_cast<double>(options.step), lr = static_cast<double>(options.lr);
  const auto at = [&](const Tensor& tensor) { return static_cast<float*>(tensor.raw()) + arrays.first; };
  AdamWArgs args = {};
  args.w = at(arrays.masters);
  args.g = at(arrays.gradients);
  args.m = at(arrays.m);
  args.v = at(arrays.v);
  args.count = arrays.count;
  args.keep = static_cast<float>(1 - lr * static_cast<double>(options.decay));
  args.lr_m = static_cast<float>(lr / (1 - std::pow(static_cast<double>(options.beta1), step)));
  args.v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(static_cast<double>(options.beta2), step)));
  args.beta1 = options.beta1;
  args.beta2 = options.beta2;
  args.eps = options.eps;
  args.grad_scale = options.grad_scale;
  kernels::adamw(stream, args);
}

double sum_of_squares(const Stream& stream, const Tensor& values) {
  std::vector<double> blocks(static_cast<size_t>((values.count() + kNormBlock - 1) / kNormBlock));
  if (blocks.empty()) return 0;
  kernels::sum_of_squares(stream, {static_cast<const float*>(values.raw()), values.count(), blocks.data()});
  return std::accumulate(blocks.begin(), blocks.end(), 0.0);
}

}  // namespace carousel::ops
