// SPDX-License-Identifier: Apache-2.0
// A step: gradients of all micro-batches, checks, the update.
#include "carousel/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "carousel/core/error.h"

namespace carousel::train {
namespace {

int64_t rows_of(const Batch& batch) { return std::accumulate(batch.lengths.begin(), batch.lengths.end(), int64_t{0}); }

}  // namespace

Trainer::Trainer(model::TrainedModel& model, const Stream& stream, Batches& data, const Recipe& recipe,
                 Processes& processes)
    : model_(model),
      data_(data),
      recipe_(recipe),
      processes_(processes),
      objective_(model, stream),
      optimiser_(*model.params, stream, recipe.optimiser, processes) {
  if (recipe_.micro_batch <= 0) recipe_.micro_batch = recipe_.batch.most();
  if (recipe_.recompute) objective_.recompute();
  if (recipe_.dropout > 0) objective_.drop(recipe_.dropout, recipe_.seed);
  if (!recipe_.carry_state) return;
  lanes_.resize(static_cast<size_t>(data.lanes()));
  objective_.carry_states(&lanes_);
}

std::vector<Batch> Trainer::take(int64_t rows) {
  const auto [first, end] = processes_.span_of(rows);
  std::vector<Batch> parts;
  for (int64_t row = first; row < end; row += recipe_.micro_batch) {
    parts.push_back(data_.take(rows_taken_ + row, std::min(recipe_.micro_batch, end - row)));
  }
  return parts;
}

/// A row that goes on from a state is taken by the process that took the row before it: both have the same place in
/// their steps. So a state is needed where the last step's row left it; those of a loaded checkpoint are gone by then.
void Trainer::drop_other_lanes(const std::vector<Batch>& parts) {
  if (lanes_.empty() || processes_.size() == 1) return;
  std::vector<bool> taken(lanes_.size());
  for (const Batch& part : parts) {
    for (const Batch::Row& row : part.rows) taken[static_cast<size_t>(row.lane)] = true;
  }
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    if (!taken[lane]) lanes_[lane] = State();
  }
}

StepReport Trainer::step_at(double rate) {
  const int64_t rows = recipe_.batch.at(optimiser_.steps());
  const std::vector<Batch> parts = take(rows);
  double sizes[2] = {};  // targets that count, tokens: integers
  for (const Batch& part : parts) {
    sizes[0] += static_cast<double>(part.counted());
    sizes[1] += static_cast<double>(rows_of(part));
  }
  processes_.sum(sizes);
  const double counted = std::max(sizes[0], 1.0);
  StepReport report;
  report.tokens = static_cast<int64_t>(sizes[1]);
  model_.params->clear_gradients();
  double sum = 0;
  for (const Batch& part : parts) objective_.add_gradients(part, static_cast<float>(1 / counted), &sum);
  drop_other_lanes(parts);
  model_.params->finish_gradients();
  processes_.sum({&sum, 1});
  optimiser_.join_gradients();
  report.step = optimiser_.steps() + 1;
  report.loss = sizes[0] > 0 ? sum / counted : std::numeric_limits<double>::quiet_NaN();
  report.norm = optimiser_.norm();
  report.rate = rate;
  if (!std::isfinite(sum) || !std::isfinite(report.norm)) {
    fail(ErrorKind::kInput, "step {}: the loss is {} and the gradient's norm {}, expected finite numbers ({})",
         report.step, report.loss, report.norm, data_.describe(rows_taken_, rows));
  }
  if (recipe_.skip_spikes > 0 && sizes[0] > 0) {  // the norm of no target, 0, says nothing about others
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

std::optional<double> Trainer::evaluate(Batches& data, int64_t rows, const std::function<bool()>& stop) {
  double sums[2] = {};  // losses, targets
  bool stopped = false;
  if (recipe_.carry_state) objective_.carry_states(nullptr);
  const auto [first, end] = processes_.span_of(rows);
  // Every process takes part in as many rounds: each is a meeting.
  const int64_t most = (rows + processes_.size() - 1) / processes_.size();
  for (int64_t taken = 0; taken < most; taken += recipe_.micro_batch) {
    stopped = processes_.any(stop && stop());
    if (stopped) break;
    const int64_t row = first + taken;
    if (row >= end) continue;
    const Batch batch = data.take(row, std::min(recipe_.micro_batch, end - row));
    objective_.add_losses(batch, &sums[0]);
    sums[1] += static_cast<double>(batch.counted());
  }
  if (recipe_.carry_state) objective_.carry_states(&lanes_);
  if (stopped) return std::nullopt;
  processes_.sum(sums);
  return sums[1] > 0 ? sums[0] / sums[1] : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace carousel::train
