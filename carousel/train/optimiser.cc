// SPDX-License-Identifier: Apache-2.0
// Ranges of parameters that are treated alike, and the steps over them.
#include "carousel/train/optimiser.h"

#include <algorithm>
#include <cmath>

#include "carousel/ops/optimiser/adamw.h"

namespace carousel::train {

Optimiser::Optimiser(model::TrainedParams& params, const Stream& stream, const OptimiserOptions& options)
    : params_(params),
      stream_(stream),
      options_(options),
      m_(params.gradients().shape(), DType::kF32, *stream.memory),
      v_(params.gradients().shape(), DType::kF32, *stream.memory) {
  for (const model::TrainedParam& param : params.params()) {
    if (!param.trained) continue;
    const bool decays = param.shape.rank() >= 2;
    const int64_t count = param.shape.count();
    if (!ranges_.empty() && ranges_.back().decays == decays && ranges_.back().first <= param.first) {
      ranges_.back().count = param.first + count - ranges_.back().first;  // what lies between is zero, and stays so
    } else {
      ranges_.push_back({param.first, count, decays});
    }
  }
}

double Optimiser::norm() const { return std::sqrt(ops::sum_of_squares(stream_, params_.gradients())); }

void Optimiser::step(double rate, double norm) {
  ops::AdamW adamw;
  adamw.lr = static_cast<float>(rate);
  adamw.beta1 = options_.beta1;
  adamw.beta2 = options_.beta2;
  adamw.eps = options_.eps;
  adamw.step = ++steps_;
  if (options_.clip > 0) {
    adamw.grad_scale = static_cast<float>(std::min(1.0, static_cast<double>(options_.clip) / (norm + 1e-6)));
  }
  for (const Range& range : ranges_) {
    adamw.decay = range.decays ? options_.decay : 0;
    ops::adamw(stream_, adamw, {params_.masters(), params_.gradients(), m_, v_, range.first, range.count});
  }
  params_.repack();
}

}  // namespace carousel::train
