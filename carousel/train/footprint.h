// SPDX-License-Identifier: Apache-2.0
// The memory that a training step takes, known before it is run: the step itself runs on meta, and what it asks for is
// counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "carousel/model/cost.h"
#include "carousel/model/tuning.h"
#include "carousel/train/trainer.h"

namespace carousel::train {

struct StepShape {
  int64_t batch = 8;        // rows of a step, of all processes
  int64_t micro_batch = 0;  // rows at a time; 0: all
  int64_t seq = 512;        // tokens of a row
  bool recompute = false;
  /// Lengths of the sequences that are computed at a time; none: that many rows of `seq`.
  std::vector<int64_t> lengths = {};
  float dropout = 0;
  bool carry_state = false;
  OptimiserOptions optimiser = {};
  model::Tuning tuning = {};               // what is trained
  Numerics numerics = Numerics::native();  // as model::training_numerics() gives them
  int rank = 0;                            // this process's number
  int processes = 1;                       // how many train together

  /// The largest step of a recipe.
  static StepShape of(const Recipe& recipe, int64_t seq);
};

struct Footprint {
  size_t masters = 0;      // bytes of the f32 parameters, an adapter's among them
  size_t gradients = 0;    // bytes of the gradients of what is trained; a shared table has two
  size_t moments = 0;      // bytes of this process's moments: AdamW has two, SGD and Muon's matrices one
  size_t packed = 0;       // bytes of what ops read: panels, their transposes, and other forms
  size_t sums = 0;         // bytes of the sums of base weights and adapter, which are packed
  size_t activations = 0;  // the most bytes that the arena holds
  size_t update = 0;       // bytes of the matrices that Muon multiplies in an update
  size_t states = 0;       // bytes of the states that rows carry where documents have `seq` tokens

  /// What a step adds to a model that is loaded: its weights are packed, and nothing was computed yet.
  size_t of_step() const { return gradients + moments + activations + update + states; }
  size_t total() const { return masters + packed + sums + of_step(); }
};

/// The footprint of a model's training on `stream`'s threads. Throws Error(kInput) for a forecaster, and as
/// model::choose_trained does.
Footprint measure_footprint(const model::ModelFiles& files, const Stream& stream, const StepShape& shape);

}  // namespace carousel::train
