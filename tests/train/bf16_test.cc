// SPDX-License-Identifier: Apache-2.0
// What is trained with products in bf16 is the model that weights of bf16 are served as.
#include <gtest/gtest.h>

#include <cmath>

#include "carousel/ops/tokens/ids.h"
#include "carousel/train/footprint.h"
#include "carousel/train/objective.h"
#include "tests/cli/tiny_model.h"
#include "tests/isas.h"
#include "tests/ops/machine.h"

namespace carousel::train {
namespace {

/// Three sequences of ids.
Batch some_ids() {
  Batch batch;
  batch.lengths = {40, 1, 31};
  Rng rng(3);
  for (int i = 0; i < 72; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(rng.bits() % 256));
    batch.targets.push_back(i % 9 == 4 ? -1 : static_cast<int32_t>(rng.bits() % 256));
  }
  return batch;
}

/// The losses that a model which was not loaded for training computes.
double served(const std::string& folder, const Stream& stream, const model::WeightTypes& types, const Batch& batch) {
  const model::Model model = model::load(folder, stream, model::ModelKind::kLanguage, Numerics::native(), types);
  model::Pass pass(stream, Numerics::native());
  const Tensor losses = pass.run(batch.lengths, [&](Ctx& ctx, const Seqs& seqs, const StateBatch* states) {
    const ops::Ids tokens = ops::token_ids(ctx, batch.tokens, model.lm->vocab_size());
    const ops::Targets targets = ops::training_targets(ctx, batch.targets, model.lm->vocab_size());
    return model.lm->loss(ctx, model.lm->forward(ctx, tokens, seqs, states), targets, nullptr, 1);
  });
  double sum = 0;
  for (int64_t n = 0; n < losses.count(); ++n) sum += double{losses.f32()[n]};
  return sum;
}

TEST(TrainBF16, IsTheModelThatWeightsOfTheTypeAre) {
  model::WeightTypes types;
  types.body = types.embeddings = types.head = types.gates = DType::kBF16;
  const Batch batch = some_ids();
  for (const char* config : {cli::kTinyXlstm, cli::kTinyLfm2, cli::kTinyLlama, cli::kTinyMixed}) {
    const Scratch scratch;
    cli::write_file(scratch / "config.json", config);
    model::write_initialised(scratch / "config.json", 5, DType::kF32, scratch / "model");
    for (const Isa isa : tested_isas()) {
      Machine machine(isa);
      machine.stream.compute = Compute::kBF16;
      model::TrainedModel trained = model::load_trained(scratch / "model", machine.stream, 0);
      Objective objective(trained, machine.stream);
      double sum = 0, without = 0;
      objective.add_gradients(batch, 1, &sum);
      objective.add_losses(batch, &without);
      EXPECT_EQ(sum, without) << config;
      EXPECT_EQ(sum, served(scratch / "model", machine.stream, types, batch)) << config;
      Machine exact(isa);
      const double f32 = served(scratch / "model", exact.stream, {}, batch);
      EXPECT_NE(sum, f32);
      EXPECT_NEAR(sum, f32, 1e-3 * f32) << config;
    }
  }
}

TEST(TrainBF16, PacksWeightsInHalfTheMemory) {
  const Scratch scratch;
  cli::write_file(scratch / "config.json", cli::kTinyMixed);
  Machine machine;
  const model::ModelFiles files = model::open_model_files(scratch / "config.json");
  const Footprint f32 = measure_footprint(files, machine.stream, {3, 0, 40, false});
  machine.stream.compute = Compute::kBF16;
  const Footprint bf16 = measure_footprint(files, machine.stream, {3, 0, 40, false});
  EXPECT_LT(static_cast<double>(bf16.packed), 0.6 * static_cast<double>(f32.packed));
  EXPECT_EQ(bf16.masters, f32.masters);
  EXPECT_EQ(bf16.moments, f32.moments);
}

}  // namespace
}  // namespace carousel::train
