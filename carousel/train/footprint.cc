// SPDX-License-Identifier: Apache-2.0
// A training step on a meta memory that counts.
#include "carousel/train/footprint.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/core/meta_memory.h"
#include "carousel/train/objective.h"
#include "carousel/train/optimiser.h"

namespace carousel::train {
namespace {

/// Meta's memory, and how much of it is held.
class CountedMeta final : public MetaMemory {
 public:
  size_t granted(size_t size_bytes) const override { return meta().granted(size_bytes); }
  std::byte* allocate(size_t granted_bytes) override {
    held_ += granted_bytes;
    return nullptr;
  }
  void release(std::byte*, size_t granted_bytes) noexcept override { held_ -= granted_bytes; }
  size_t held() const { return held_; }

 private:
  size_t held_ = 0;
};

/// One of several processes that does without the others: nothing is exchanged.
class Apart final : public Processes {
 public:
  Apart(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

 private:
  int rank_, size_;
};

Batch zero_batch(const model::Model& model, std::vector<int64_t> lengths, const std::string& where) {
  Batch batch;
  const auto sequences = static_cast<int64_t>(lengths.size());
  // Each is a row: which elements dropout takes, and where a state comes from, changes no size.
  for (int64_t s = 0; s < sequences; ++s) batch.rows.push_back({.first = s, .end = s + 1, .lane = s, .goes_on = true});
  const double count = std::accumulate(lengths.begin(), lengths.end(), 0.0);
  const double bytes = std::min(count * 2 * sizeof(int32_t), 0x1p62);  // ids alone are no meta
  model::check_memory(static_cast<size_t>(bytes), where, "ids of a step");
  const int64_t all = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  batch.lengths = std::move(lengths);
  if (model.lm != nullptr) {
    batch.tokens.assign(static_cast<size_t>(all), 0);
    batch.targets = batch.tokens;
  } else {
    batch.features = Tensor(Shape{all, model.regressor->input_size()}, DType::kF32, Memory::meta());
    batch.wanted = Tensor(Shape{all, model.regressor->output_size()}, DType::kF32, Memory::meta());
  }
  return batch;
}

/// Runs the forward and backward of a step of `rows` rows, or of those that are computed at a time.
void measure_step(model::TrainedModel& trained, const Stream& meta, const StepShape& shape, int64_t rows,
                  Footprint& footprint) {
  Objective objective(trained, meta);
  if (shape.recompute) objective.recompute();
  if (shape.dropout > 0) objective.drop(shape.dropout, 0);
  const int64_t at_a_time = shape.micro_batch > 0 ? std::min(shape.micro_batch, rows) : rows;
  const std::vector<int64_t> even(static_cast<size_t>(at_a_time), shape.seq);
  Batch batch = zero_batch(trained.model, shape.lengths.empty() ? even : shape.lengths, "training");
  std::vector<State> lanes(batch.lengths.size());
  if (shape.carry_state) objective.carry_states(&lanes);
  double sum = 0;
  for (const bool goes_on : {false, true}) {  // the second time finds blocks that are free
    for (Batch::Row& row : batch.rows) row.continues = goes_on;
    objective.add_gradients(batch, 1, &sum);
  }
  footprint.activations = objective.arena().size_bytes();
  // The states of a step's rows are kept, and every sequence that is computed has one.
  const size_t state = trained.model.state_layout().bytes_at(shape.seq);
  if (shape.carry_state) footprint.states = (static_cast<size_t>(rows) + lanes.size()) * state;
}

}  // namespace

StepShape StepShape::of(const Recipe& recipe, int64_t seq) {
  StepShape shape;
  shape.batch = recipe.batch.most();
  shape.micro_batch = recipe.micro_batch;
  shape.seq = seq;
  shape.recompute = recipe.recompute;
  shape.dropout = recipe.dropout;
  shape.carry_state = recipe.carry_state;
  shape.optimiser = recipe.optimiser;
  return shape;
}

Footprint measure_footprint(const model::ModelFiles& files, const Stream& stream, const StepShape& shape) {
  if (files.config.kind == model::ModelKind::kForecaster) {
    fail(ErrorKind::kInput, "{}: got a forecaster, expected a model that can be trained", files.place.config);
  }
  CountedMeta memory;  // outlives what lies in it
  Stream meta = stream;
  meta.memory = &memory;
  model::ParamList list;
  model::declare_params(files.config, list, files.place.config);
  const std::string& where = files.place.weights.empty() ? files.place.config : files.place.weights;
  const model::TrainedChoice choice = model::choose_trained(files.config, list.records(), shape.tuning, 0, where);
  model::MetaParams source([](const model::ParamRecord&) { return DType::kF32; });
  model::TrainedModel trained;
  trained.model.config = files.config;
  if (!(shape.numerics == Numerics::native())) {
    trained.model.numerics = std::make_shared<const Numerics>(shape.numerics);
  }
  trained.params = std::make_unique<model::TrainedParams>(source, meta, list.records(), choice);
  const size_t arrays = memory.held();
  model::make_body(trained.model, *trained.params, files.place.config);

  Footprint footprint;
  footprint.masters = trained.params->masters().size_bytes();
  footprint.gradients = trained.params->gradient_bytes();
  footprint.sums = trained.params->sum_bytes();
  footprint.packed = memory.held() - arrays;
  Apart processes(shape.rank, shape.processes);
  Optimiser optimiser(*trained.params, meta, shape.optimiser, processes);
  footprint.moments = optimiser.moment_bytes();
  const size_t before = memory.held();
  optimiser.step(1, 1);
  footprint.update = memory.held() - before;

  const auto [first, end] = processes.span_of(shape.batch);
  measure_step(trained, meta, shape, std::max<int64_t>(end - first, 1), footprint);
  return footprint;
}

}  // namespace carousel::train
