// SPDX-License-Identifier: Apache-2.0
// The steps of a run: rows of the data, their gradients in micro-batches, clipping, the optimiser. A step is a function
// of the parameters, the optimiser's moments, carried states and two counters; no clock and no thread decides anything.
// Several processes take a span of a step's rows each (Processes); all report the same step.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "carousel/train/batch_ramp.h"
#include "carousel/train/batches.h"
#include "carousel/train/norm_history.h"
#include "carousel/train/objective.h"
#include "carousel/train/optimiser.h"
#include "carousel/train/processes.h"
#include "carousel/train/schedule.h"

namespace carousel::train {

struct Recipe {
  Schedule schedule;  // holds the number of steps
  OptimiserOptions optimiser;
  BatchRamp batch{8};       // rows of each step
  int64_t micro_batch = 0;  // rows at a time; 0: all
  bool carry_state = false;
  double skip_spikes = 0;  // a step is skipped whose norm is so many deviations above the mean; 0: none is
  bool recompute = false;  // Objective::recompute
  float dropout = 0;       // the share of Objective::drop; 0: nothing is dropped
  uint64_t seed = 0;       // of what is dropped
};

/// What a step was.
struct StepReport {
  int64_t step = 0;  // from 1 on
  double loss = 0;   // the sum over its targets divided by their number, before the update; NaN where it has none
  double norm = 0;   // of all gradients, before clipping
  double rate = 0;
  int64_t tokens = 0;    // rows of all sequences
  bool skipped = false;  // the norm was a spike: nothing was changed
};

class Trainer {
 public:
  /// All outlive the trainer. Without `processes` this one is alone; else steps and evaluations are meetings.
  Trainer(model::TrainedModel& model, const Stream& stream, Batches& data, const Recipe& recipe,
          Processes& processes = Processes::alone());

  bool done() const { return optimiser_.steps() >= recipe_.schedule.steps; }
  /// The next step. Throws Error(kInput) naming the step and its documents where a loss or gradient is not finite; the
  /// parameters are then as they were.
  StepReport step() { return step_at(recipe_.schedule.at(optimiser_.steps())); }
  /// The same at a rate of the caller's.
  StepReport step_at(double rate);
  /// The mean loss over the first `rows` rows of other data, each from the zero state; NaN where no target counts.
  /// `stop`, if any, is asked before each micro-batch: nothing is returned once it is true in any process.
  std::optional<double> evaluate(Batches& data, int64_t rows, const std::function<bool()>& stop = {});

  /// What a checkpoint holds beside the parameters.
  Optimiser& optimiser() { return optimiser_; }
  OptimiserOptions::Method method() const { return recipe_.optimiser.method; }
  /// States of lanes; empty where they are not carried. A process has those that its own rows of the last step left, or
  /// all after a checkpoint was loaded.
  std::vector<State>& lanes() { return lanes_; }
  NormHistory& norms() { return norms_; }
  int64_t rows_taken() const { return rows_taken_; }
  int64_t tokens_seen() const { return tokens_seen_; }
  void set_counters(int64_t rows_taken, int64_t tokens_seen) {
    rows_taken_ = rows_taken;
    tokens_seen_ = tokens_seen;
  }
  model::TrainedModel& model() { return model_; }
  Processes& processes() { return processes_; }
  const Arena& arena() const { return objective_.arena(); }

 private:
  /// This process's rows of a step.
  std::vector<Batch> take(int64_t rows);
  void drop_other_lanes(const std::vector<Batch>& parts);

  model::TrainedModel& model_;
  Batches& data_;
  Recipe recipe_;
  Processes& processes_;
  Objective objective_;
  Optimiser optimiser_;
  std::vector<State> lanes_;
  NormHistory norms_;
  int64_t rows_taken_ = 0, tokens_seen_ = 0;
};

}  // namespace carousel::train
