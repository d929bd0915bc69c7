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

Batch zero_batch(const model::Model& model, std::vector<int64_t> lengths) {
  Batch batch;
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

}  // namespace

Footprint measure_footprint(const model::ModelFiles& files, const Stream& stream, const StepShape& shape) {
  if (files.config.kind == model::ModelKind::kForecaster) {
    fail(ErrorKind::kInput, "{}: got a forecaster, expected a model that can be trained", files.place.config);
  }
  CountedMeta memory;  // outlives what lies in it
  Stream meta = stream;
  meta.memory = &memory;
  model::ParamList list;
  model::declare_params(files.config, list, files.place.config);
  model::MetaParams source([](const model::ParamRecord&) { return DType::kF32; });
  model::TrainedModel trained;
  trained.model.config = files.config;
  trained.params = std::make_unique<model::TrainedParams>(source, meta, list.records());
  const size_t arrays = memory.held();
  model::make_body(trained.model, *trained.params, files.place.config);

  Footprint footprint;
  footprint.masters = trained.params->masters().size_bytes();
  footprint.gradients = arrays - footprint.masters;
  footprint.packed = memory.held() - arrays;
  const size_t before = memory.held();
  const Optimiser optimiser(*trained.params, meta, {});
  footprint.moments = memory.held() - before;

  Objective objective(trained, meta);
  if (shape.recompute) objective.recompute();
  const int64_t rows = shape.micro_batch > 0 ? std::min(shape.micro_batch, shape.batch) : shape.batch;
  double sum = 0;
  const std::vector<int64_t> even(static_cast<size_t>(rows), shape.seq);
  const Batch batch = zero_batch(trained.model, shape.lengths.empty() ? even : shape.lengths);
  for (int i = 0; i < 2; ++i) objective.add_gradients(batch, 1, &sum);  // the second finds blocks that are free
  footprint.activations = objective.arena().size_bytes();
  return footprint;
}

}  // namespace carousel::train
