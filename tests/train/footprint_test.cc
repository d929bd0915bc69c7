// SPDX-License-Identifier: Apache-2.0
// What a step takes, as predicted on meta, beside what it took.
#include "carousel/train/footprint.h"

#include <gtest/gtest.h>

#include <map>

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

/// A choice of what is trained and how, and its name.
struct Choice {
  const char* name;
  StepShape shape;
};

std::vector<Choice> choices() {
  StepShape frozen, head, adapted, queries, sgd, muon, dropped, carried;
  frozen.tuning.freeze = {"*embeddings*", "layers.0.*"};
  head.tuning.freeze = {"*embeddings*", "layers.*"};
  adapted.tuning.rank = 4;
  adapted.tuning.alpha = 8;
  queries = adapted;
  queries.tuning.targets = {"q"};
  sgd.optimiser.method = OptimiserOptions::Method::kSgd;
  muon.optimiser.method = OptimiserOptions::Method::kMuon;
  dropped.dropout = 0.1f;
  carried.carry_state = true;
  std::vector<Choice> out = {{"frozen", frozen}, {"head", head}, {"adapted", adapted}, {"queries", queries},
                             {"sgd", sgd},       {"muon", muon}, {"dropped", dropped}, {"carried", carried}};
  for (Choice& choice : out) {
    choice.shape.batch = 3;
    choice.shape.seq = 70;
  }
  return out;
}

/// The footprint of a step of 3 x 70, once it was compared with what such a step holds.
Footprint compared(const std::string& path, const Choice& choice, const Stream& stream) {
  const StepShape& shape = choice.shape;
  const std::string where = path + " " + choice.name;
  model::TrainedModel trained = model::load_trained(path, stream, 1, shape.tuning);
  Objective objective(trained, stream);
  if (shape.dropout > 0) objective.drop(shape.dropout, 1);
  Batch batch = batch_of(trained.model, 3, 70);
  for (int64_t s = 0; s < 3; ++s) batch.rows.push_back({.first = s, .end = s + 1, .lane = s, .goes_on = true});
  std::vector<State> lanes(3);
  if (shape.carry_state) objective.carry_states(&lanes);
  double sum = 0;
  for (int k = 0; k < 2; ++k) {
    for (Batch::Row& row : batch.rows) row.continues = k > 0;
    objective.add_gradients(batch, 1, &sum);
  }
  const Footprint footprint = measure_footprint(model::open_model_files(path), stream, shape);
  EXPECT_EQ(footprint.activations, objective.arena().size_bytes()) << where;
  EXPECT_EQ(footprint.masters, trained.params->masters().size_bytes()) << where;
  EXPECT_EQ(footprint.gradients, trained.params->gradient_bytes()) << where;
  EXPECT_EQ(footprint.sums, trained.params->sum_bytes()) << where;
  const Optimiser optimiser(*trained.params, stream, shape.optimiser);
  EXPECT_EQ(footprint.moments, optimiser.moment_bytes()) << where;
  return footprint;
}

TEST(Footprint, KnowsWhatIsTrainedAndHow) {
  Machine machine;
  const std::string models = kFixtures + "models/", path = models + "xlstm-odd";
  const model::ModelFiles files = model::open_model_files(path);
  std::map<std::string, Footprint> seen;
  for (const Choice& choice : choices()) {
    seen[choice.name] = compared(path, choice, machine.stream);
    if (choice.name == std::string("queries")) continue;  // others have no projection of this name
    for (const char* other : {"xlstm-lm-mixed", "lfm2-conv7", "lfm2-v4"})
      compared(models + other, choice, machine.stream);
  }
  const Footprint whole = measure_footprint(files, machine.stream, {3, 0, 70, false});
  EXPECT_LT(seen["frozen"].gradients, whole.gradients);
  EXPECT_LT(seen["head"].activations, whole.activations);
  EXPECT_LT(seen["adapted"].gradients, whole.gradients / 4);
  EXPECT_LT(seen["queries"].sums, seen["adapted"].sums);
  EXPECT_EQ(seen["sgd"].moments, whole.moments / 2);
  EXPECT_LT(seen["muon"].moments, whole.moments);
  EXPECT_GT(seen["muon"].moments, whole.moments / 2);
  EXPECT_GT(seen["muon"].update, 0u);
  EXPECT_GT(seen["carried"].states, 0u);
}

TEST(Footprint, EachProcessHoldsItsMomentsAndComputesItsRows) {
  Machine machine;
  const model::ModelFiles files = model::open_model_files(kFixtures + "models/xlstm-odd");
  StepShape shape = {4, 0, 64, false};
  const Footprint alone = measure_footprint(files, machine.stream, shape);
  shape.processes = 4;
  size_t moments = 0;
  for (shape.rank = 0; shape.rank < 4; ++shape.rank) {
    const Footprint one = measure_footprint(files, machine.stream, shape);
    moments += one.moments;
    EXPECT_LT(one.activations, alone.activations);
    EXPECT_EQ(one.gradients, alone.gradients);
  }
  EXPECT_EQ(moments, alone.moments);
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
