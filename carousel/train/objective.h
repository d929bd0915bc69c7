// SPDX-License-Identifier: Apache-2.0
// What is minimised: the loss of a batch, and its gradient added to a model's parameters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "carousel/model/load.h"
#include "carousel/model/pass.h"
#include "carousel/ops/dropout/dropout.h"

namespace carousel::train {

/// Some rows, as sequences laid end to end, each from the zero state. Language models read tokens and targets, models
/// from features to features and forecasters the tensors.
struct Batch {
  std::vector<int32_t> tokens, targets;  // [N]; a target of -1 is none
  Tensor features, wanted;               // [N, I], [N, O] f32; of a forecaster [N, 2P], [N, P], where NaN is missing
  Tensor elapsed;                        // [N] f32, or empty
  std::vector<int64_t> lengths;          // [B], their sum N

  /// A row of the data: sequences first to end.
  struct Row {
    int64_t first, end;
    int64_t lane = 0;        // rows of one lane follow each other
    bool continues = false;  // the first sequence starts from the state that the lane kept, else from zero
    bool goes_on = false;    // the lane keeps the state after the last sequence
    int64_t number = 0;      // of the row in the run, from 0 on
  };
  std::vector<Row> rows;  // what carried states and dropout go by; may be empty without

  /// Targets that count: tokens, or elements of `wanted` that are not missing.
  int64_t counted() const;
};

/// One thread's way through a model that is trained. Not for use by two threads at once.
class Objective {
 public:
  /// Both outlive this.
  Objective(model::TrainedModel& model, const Stream& stream) : model_(model), pass_(stream, *model.model.numerics) {
    pass_.arena().fit_tightly();
  }
  /// From now on sequences that a row of the data cuts go on from the states in `lanes`, detached: no gradient passes.
  /// A batch has one row of a lane at most.
  void carry_states(std::vector<State>* lanes) { lanes_ = lanes; }

  /// From now on sublayers keep their inputs alone, and run again when gradients are computed: the same bits, in less
  /// memory and more time.
  void recompute() { recompute_ = true; }

  /// From now on gradients are those of a model that drops a share of the elements that enter its residual stream
  /// (ops/dropout/dropout.h). Losses alone are computed without.
  void drop(float share, uint64_t seed) {
    dropout_.share = share;
    dropout_.seed = seed;
  }

  /// Adds the gradient of scale * (the sum of the batch's losses) to the model's gradients. The sum itself is added to
  /// `sum` row after row, in f64: batches one after the other give the bits of one batch. The losses are those of
  /// ops::linear_cross_entropy, squared errors, or those of ops::quantile_error.
  void add_gradients(const Batch& batch, float scale, double* sum);
  /// The sum alone.
  void add_losses(const Batch& batch, double* sum);
  const Arena& arena() const { return pass_.arena(); }

 private:
  void run(const Batch& batch, float scale, bool gradients, double* sum);
  template <class F>
  Tensor run_carried(const Batch& batch, const F& forward);

  void place_dropout(const Batch& batch);

  model::TrainedModel& model_;
  model::Pass pass_;
  ops::Dropout dropout_;  // share 0: none
  bool recompute_ = false;
  std::vector<State>* lanes_ = nullptr;  // null: every sequence starts from the zero state
};

}  // namespace carousel::train
