// SPDX-License-Identifier: Apache-2.0
// Steps on random tokens, between probes of the machine.
#include "carousel/bench/training.h"

#include <algorithm>
#include <chrono>

#include "carousel/bench/samples.h"
#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/model/cost.h"
#include "carousel/train/footprint.h"
#include "carousel/train/trainer.h"

namespace carousel::bench {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int64_t kMostAttempts = 3;  // so many samples for each round asked for

/// Every row is a sequence of its own.
class RandomBatches : public train::Batches {
 public:
  RandomBatches(int64_t vocab, int64_t seq) : vocab_(vocab), seq_(seq) {}
  int64_t rows() const override { return 1; }
  int64_t lanes() const override { return 0; }
  train::Batch take(int64_t first, int64_t count) override {
    Rng rng(kSeed, static_cast<uint64_t>(first));
    const auto draw = [&] { return static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(vocab_)); };
    train::Batch batch;
    batch.lengths.assign(static_cast<size_t>(count), seq_);
    for (int64_t n = 0; n < count * seq_; ++n) {
      batch.tokens.push_back(draw());
      batch.targets.push_back(draw());
    }
    return batch;
  }
  std::string describe(int64_t, int64_t) override { return "random tokens"; }

 private:
  int64_t vocab_, seq_;
};

/// Operations of all matrix products of a token: its own, and those of both gradients.
double matrix_flops(const std::string& path) {
  const model::ModelCost cost = model::measure_cost(model::open_model_files(path));
  double multiplies = 0;
  for (const auto* part : {&cost.body_multiplies, &cost.head_multiplies}) {
    for (const auto& [dtype, count] : *part) multiplies += static_cast<double>(count);
  }
  return 6 * multiplies;
}

}  // namespace

TrainResult run_train_bench(const std::string& path, const Stream& stream, const TrainShape& shape, int64_t rounds,
                            const std::function<bool()>& stop) {
  const model::ModelFiles files = model::open_model_files(path);
  train::StepShape step;
  step.batch = shape.batch;
  step.seq = shape.rows;
  step.recompute = shape.recompute;
  model::check_memory(train::measure_footprint(files, stream, step).total(), path, "training");
  model::TrainedModel trained = model::load_trained(path, stream, kSeed);
  if (trained.model.lm == nullptr) fail(ErrorKind::kInput, "{}: got no language model, expected one", path);
  RandomBatches data(trained.model.lm->vocab_size(), shape.rows);
  train::Recipe recipe;
  recipe.schedule.kind = train::Schedule::Kind::kConstant;
  recipe.schedule.steps = int64_t{1} << 40;
  recipe.batch = train::BatchRamp(shape.batch);
  recipe.recompute = shape.recompute;
  train::Trainer trainer(trained, stream, data, recipe);
  trainer.step();  // untimed: memory is allocated and every page touched
  Sampled sampled;
  sampled.run = [&] {
    const auto begin = std::chrono::steady_clock::now();
    trainer.step();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const Samples samples = take_samples({sampled}, stream, rounds, kMostAttempts * rounds, stop).front();
  TrainResult result;
  result.peak_bytes = peak_memory_bytes();
  result.activation_bytes = trainer.arena().size_bytes();
  result.rejected = samples.rejected();
  if (samples.empty()) return result;
  const auto tokens = static_cast<double>(shape.batch * shape.rows);
  for (const Sample& sample : samples.quiet()) result.tokens_per_s.push_back(tokens / sample.seconds);
  result.gflop_per_s = tokens * matrix_flops(path) / samples.median(&Sample::seconds) * 1e-9;
  result.peak_gflop_per_s = samples.median(&Sample::f32);
  return result;
}

}  // namespace carousel::bench
