// SPDX-License-Identifier: Apache-2.0
// A step: gradients of all micro-batches, checks, the update.
#include "carousel/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "carousel/core/error.h"

namespace carousel::train {
namespace {

int64_t rows_of(const Batch& batch) { return std::accumulate(batch.lengths.begin(), batch.lengths.end(), int64_t{0}); }

}  // namespace

Trainer::Trainer(model::TrainedModel& model, const Stream& stream, Batches& data, const Recipe& recipe)
    : model_(model),
      data_(data),
      recipe_(recipe),
      objective_(model, stream),
      optimiser_(*model.params, stream, recipe.optimiser) {
  if (recipe_.micro_batch <= 0) recipe_.micro_batch = recipe_.batch.most();
  if (recipe_.recompute) objective_.recompute();
  if (recipe_.dropout > 0) objective_.drop(recipe_.dropout, recipe_.seed);
  if (!recipe_.carry_state) return;
  lanes_.resize(static_cast<size_t>(data.lanes()));
  objective_.carry_states(&lanes_);
}

StepReport Trainer::step_at(double rate) {
  const int64_t rows = recipe_.batch.at(optimiser_.steps());
  std::vector<Batch> parts;
  int64_t counted = 0;
  StepReport report;
  for (int64_t done = 0; done < rows; done += recipe_.micro_batch) {
    parts.push_back(data_.take(rows_taken_ + done, std::min(recipe_.micro_batch, rows - done)));
    counted += parts.back().counted();
    report.tokens += rows_of(parts.back());
  }
  model_.params->clear_gradients();
  double sum = 0;
  const auto scale = static_cast<float>(1 / static_cast<double>(std::max<int64_t>(counted, 1)));
  for (const Batch& part : parts) objective_.add_gradients(part, scale, &sum);
  model_.params->finish_gradients();
  report.step = optimiser_.steps() + 1;
  report.loss = sum / static_cast<double>(std::max<int64_t>(counted, 1));
  report.norm = optimiser_.norm();
  report.rate = rate;
  if (!std::isfinite(report.loss) || !std::isfinite(report.norm)) {
    fail(ErrorKind::kInput, "step {}: the loss is {} and the gradient's norm {}, expected finite numbers ({})",
         report.step, report.loss, report.norm, data_.describe(rows_taken_, rows));
  }
  if (recipe_.skip_spikes > 0) {
    report.skipped = norms_.is_spike(report.norm, recipe_.skip_spikes);
    norms_.add(report.norm, recipe_.skip_spikes);
  }
  if (report.skipped) {
    optimiser_.skip();
  } else {
    optimiser_.step(report.rate, report.norm);
  }
  rows_taken_ += rows;
  tokens_seen_ += report.tokens;
  return report;
}

double Trainer::evaluate(Batches& data, int64_t rows) {
  double sum = 0;
  int64_t counted = 0;
  if (recipe_.carry_state) objective_.carry_states(nullptr);
  for (int64_t first = 0; first < rows; first += recipe_.micro_batch) {
    const Batch batch = data.take(first, std::min(recipe_.micro_batch, rows - first));
    objective_.add_losses(batch, &sum);
    counted += batch.counted();
  }
  if (recipe_.carry_state) objective_.carry_states(&lanes_);
  return sum / static_cast<double>(std::max<int64_t>(counted, 1));
}

}  // namespace carousel::train
