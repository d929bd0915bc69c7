// SPDX-License-Identifier: Apache-2.0
// The update of a model's parameters from their gradients: clipping and AdamW over the flat arrays, then packing.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/model/trained_params.h"

namespace carousel::train {

struct OptimiserOptions {
  float beta1 = 0.9f, beta2 = 0.95f;
  float eps = 1e-8f;
  float decay = 0.1f;  // of parameters with two or more dimensions
  float clip = 1.0f;   // the most that the norm of all gradients may be; 0: no bound
};

class Optimiser {
 public:
  /// `params` outlives this. Moments are zero.
  Optimiser(model::TrainedParams& params, const Stream& stream, const OptimiserOptions& options);

  /// The norm of all gradients, which must be complete (finish_gradients).
  double norm() const;
  /// One step at this rate with gradients of this norm. They are scaled by min(1, clip / (norm + 1e-6)).
  void step(double rate, double norm);

  int64_t steps() const { return steps_; }
  /// For checkpoints: both moments, flat as the gradients are, and how many steps they have seen.
  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  /// Neighbouring parameters that are treated alike.
  struct Range {
    int64_t first, count;
    bool decays;
  };

  model::TrainedParams& params_;
  const Stream& stream_;
  OptimiserOptions options_;
  Tensor m_, v_;
  std::vector<Range> ranges_;
  int64_t steps_ = 0;
};

}  // namespace carousel::train
