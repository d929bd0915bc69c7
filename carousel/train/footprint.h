// SPDX-License-Identifier: Apache-2.0
// The memory that a training step takes, known before it is run: the step itself runs on meta, and what it asks for is
// counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "carousel/model/cost.h"

namespace carousel::train {

struct StepShape {
  int64_t batch = 8;        // rows of a step
  int64_t micro_batch = 0;  // rows at a time; 0: all
  int64_t seq = 512;        // tokens of a row
  bool recompute = false;
  /// Lengths of the sequences that are computed at a time. If there are any, batch, micro_batch and seq are not read.
  std::vector<int64_t> lengths = {};
};

struct Footprint {
  size_t masters = 0;      // bytes of the f32 parameters
  size_t gradients = 0;    // of their gradients, those of a shared table twice
  size_t moments = 0;      // of the optimiser's two
  size_t packed = 0;       // of what ops read: panels, their transposes, and other forms
  size_t activations = 0;  // the most that the arena holds

  size_t total() const { return masters + gradients + moments + packed + activations; }
};

/// The footprint of a whole model's training on `stream`'s threads. Throws Error(kInput) for a forecaster.
Footprint measure_footprint(const model::ModelFiles& files, const Stream& stream, const StepShape& shape);

}  // namespace carousel::train
