// SPDX-License-Identifier: Apache-2.0
// A forward under a tape, its loss, and the tape backwards.
#include "carousel/train/objective.h"

#include <algorithm>
#include <cmath>

#include "carousel/core/assert.h"
#include "carousel/ops/optimiser/quantile_error.h"
#include "carousel/ops/optimiser/squared_error.h"
#include "carousel/ops/tape.h"
#include "carousel/ops/tokens/ids.h"

namespace carousel::train {

int64_t Batch::counted() const {
  if (wanted.defined()) {
    return std::count_if(wanted.f32(), wanted.f32() + wanted.count(), [](float value) { return !std::isnan(value); });
  }
  return std::count_if(targets.begin(), targets.end(), [](int32_t target) { return target >= 0; });
}

void Objective::add_gradients(const Batch& batch, float scale, double* sum) { run(batch, scale, true, sum); }
void Objective::add_losses(const Batch& batch, double* sum) { run(batch, 1, false, sum); }

/// Runs from the states that lanes keep, and keeps those of rows that go on.
template <class F>
Tensor Objective::run_carried(const Batch& batch, const F& forward) {
  std::vector<State> states(batch.lengths.size());
  for (const Batch::Row& row : batch.rows) {
    if (row.continues) states[static_cast<size_t>(row.first)] = (*lanes_)[static_cast<size_t>(row.lane)];
  }
  std::vector<State*> bound;
  for (State& state : states) bound.push_back(&state);
  const Tensor losses = pass_.run(model_.model.state_layout(), bound, batch.lengths, batch.elapsed, forward);
  for (const Batch::Row& row : batch.rows) {
    (*lanes_)[static_cast<size_t>(row.lane)] = row.goes_on ? states[static_cast<size_t>(row.end - 1)] : State();
  }
  return losses;
}

/// Tells dropout where in the run the batch's rows lie.
void Objective::place_dropout(const Batch& batch) {
  CAROUSEL_ASSERT(!batch.rows.empty());
  dropout_.spans.clear();
  int64_t begin = 0, sequence = 0;
  for (const Batch::Row& row : batch.rows) {
    dropout_.spans.push_back({begin, row.number, 0});
    for (; sequence < row.end; ++sequence) begin += batch.lengths[static_cast<size_t>(sequence)];
  }
}

void Objective::run(const Batch& batch, float scale, bool gradients, double* sum) {
  Tape tape(model_.params->trained(), recompute_);
  if (gradients && dropout_.share > 0) {
    place_dropout(batch);
    tape.drop(dropout_);
  }
  Grads grads(tape);
  const auto forward = [&](Ctx& ctx, const Seqs& seqs, const StateBatch* states) {
    Ctx taped = ctx;
    if (gradients) taped.tape = &tape;
    Grads* const wanted = gradients ? &grads : nullptr;
    Tensor losses;
    if (const model::Lm* const lm = model_.model.lm.get()) {
      const ops::Ids tokens = ops::token_ids(ctx, batch.tokens, lm->vocab_size());
      const ops::Targets targets = ops::training_targets(ctx, batch.targets, lm->vocab_size());
      const Tensor hidden = lm->forward(taped, tokens, seqs, states);
      losses = lm->loss(ctx, hidden, targets, wanted, scale);
    } else {
      Memory& there = *ctx.stream.memory;
      const Tensor x = batch.features.to(there), targets = batch.wanted.to(there);
      if (const model::Forecaster* const forecaster = model_.model.forecaster.get()) {
        const Tensor y = forecaster->forward(taped, x, seqs, states);
        losses = ops::quantile_error(ctx, y, targets, forecaster->patches().quantiles, wanted, scale);
      } else {
        const Tensor y = model_.model.regressor->forward(taped, x, seqs, states);
        losses = ops::squared_error(ctx, y, targets, wanted, scale);
      }
    }
    if (gradients) tape.backward(ctx, grads);
    return losses;
  };
  const Tensor losses =
      (lanes_ != nullptr ? run_carried(batch, forward) : pass_.run(batch.lengths, batch.elapsed, forward)).to_host();
  for (int64_t n = 0; n < losses.count(); ++n) *sum += static_cast<double>(losses.f32()[n]);
}

}  // namespace carousel::train
