// SPDX-License-Identifier: Apache-2.0
// What a step takes, as predicted on meta, beside what it took.
#include "carousel/train/footprint.h"

#include <gtest/gtest.h>

#include "carousel/train/objective.h"
#include "tests/ops/machine.h"

namespace carousel::train {
namespace {

const std::string kFixtures = CAROUSEL_SOURCE_DIR "/tests/fixtures/";

/// Some rows of ids below any vocabulary, or of features that are zero.
Batch batch_of(const model::Model& model, int64_t rows, int64_t seq) {
  Batch batch;
  batch.lengths.assign(static_cast<size_t>(rows), seq);
  if (model.regressor != nullptr) {
    batch.features = Tensor({rows * seq, model.regressor->input_size()}, DType::kF32);
    batch.wanted = Tensor({rows * seq, model.regressor->output_size()}, DType::kF32);
    return batch;
  }
  for (int64_t n = 0; n < rows * seq; ++n) {
    batch.tokens.push_back(static_cast<int32_t>(n % 7));
    batch.targets.push_back(static_cast<int32_t>((n + 1) % 7));
  }
  return batch;
}

TEST(Footprint, IsWhatAStepHolds) {
  Machine machine;
  const std::vector<std::string> names{"models/xlstm-odd", "models/xlstm-lm-mixed",     "models/lfm2-conv7",
                                       "models/lfm2-v4",   "regressors/ncps-cfc-wired", "regressors/ncps-ltc-autoncp"};
  for (size_t i = 0; i < 2 * names.size(); ++i) {
    const std::string name = names[i / 2];
    machine.stream.compute = i % 2 == 0 ? Compute::kF32 : Compute::kBF16;
    model::TrainedModel trained = model::load_trained(kFixtures + name, machine.stream, 1);
    const model::ModelFiles files = model::open_model_files(kFixtures + name);
    for (const bool recompute : {false, true}) {
      const StepShape shape = {6, 3, 70, recompute};
      Objective objective(trained, machine.stream);
      if (recompute) objective.recompute();
      double sum = 0;
      for (int k = 0; k < 2; ++k) objective.add_gradients(batch_of(trained.model, 3, 70), 1, &sum);
      const Footprint footprint = measure_footprint(files, machine.stream, shape);
      EXPECT_EQ(footprint.activations, objective.arena().size_bytes()) << name << " " << recompute;
      EXPECT_EQ(footprint.masters, trained.params->masters().size_bytes()) << name;
      EXPECT_EQ(footprint.moments, 2 * trained.params->gradients().size_bytes()) << name;
      EXPECT_GE(footprint.packed, footprint.masters / 4) << name;
    }
  }
}

TEST(Footprint, RecomputingHoldsLessOfALongRow) {
  Machine machine;
  const model::ModelFiles files = model::open_model_files(kFixtures + "models/xlstm-odd");
  const Footprint kept = measure_footprint(files, machine.stream, {4, 0, 512, false});
  const Footprint again = measure_footprint(files, machine.stream, {4, 0, 512, true});
  EXPECT_LT(again.activations, kept.activations);
  EXPECT_EQ(again.total() - again.activations, kept.total() - kept.activations);
}

}  // namespace
}  // namespace carousel::train
