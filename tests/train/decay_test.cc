// SPDX-License-Identifier: Apache-2.0
// Which parameters an optimiser decays: for the groups of the xLSTM paper of 2024, those whose names in the xlstm
// package's files have "weight" and no "norm", the table of tokens aside.
#include <gtest/gtest.h>

#include <map>

#include "carousel/model/load.h"
#include "carousel/train/optimiser.h"
#include "tests/ops/machine.h"

namespace carousel::train {
namespace {

using Decays = OptimiserOptions::Decays;

/// Blocks of both kinds; `more` holds options of the model.
model::ModelConfig package_config(const std::string& more) {
  const std::string text =
      R"({"model_type": "xlstm_lm", "vocab_size": 64, "context_length": 32, "num_blocks": 2, "embedding_dim": 32,
          "mlstm_block": {"mlstm": {"num_heads": 2}}, "slstm_block": {"slstm": {"num_heads": 2}, "feedforward": {}},
          "slstm_at": [1])" +
      more + "}";
  return model::find_family("xlstm_lm", "test").read(parse_json(text, "test"), "test", {});
}

/// Whether one step without gradients has changed each parameter. All begin as ones.
std::map<std::string, bool> decayed(const model::ModelConfig& config, Decays decays) {
  Machine machine;
  model::ParamList list;
  model::declare_params(config, list, "test");
  model::DrawnParams drawn(machine.stream, 1, DType::kF32);
  model::TrainedModel model;
  model.model.config = config;
  model.params = std::make_unique<model::TrainedParams>(drawn, machine.stream, list.records());
  model::make_body(model.model, *model.params, "test");
  OptimiserOptions options;
  options.decays = decays;
  Optimiser optimiser(*model.params, machine.stream, options);
  model.params->clear_gradients();
  for (const model::TrainedParam& param : model.params->params()) {
    std::fill_n(param.master.f32(), param.master.count(), 1.0f);
  }
  optimiser.step(0.5, 0);
  std::map<std::string, bool> changed;
  for (const model::TrainedParam& param : model.params->params()) {
    const float first = param.master.f32()[0];
    for (int64_t i = 0; i < param.master.count(); ++i) EXPECT_EQ(param.master.f32()[i], first) << param.name;
    EXPECT_TRUE(first == 1 || first == 1 - 0.5f * 0.1f) << param.name << " " << first;
    changed[param.name] = first != 1;
  }
  return changed;
}

TEST(Decay, OfThePaperFollowsTheNamesOfThePackage) {
  for (const char* more : {"", R"(, "bias": true)", R"(, "tie_weights": true)"}) {
    const model::ModelConfig config = package_config(more);
    const model::Family& family = model::find_family("xlstm_lm", "test");
    int64_t decays = 0, others = 0;
    for (const auto& [name, changed] : decayed(config, Decays::kPaper)) {
      const std::string file = family.names.sources(config, name).front().file_name;
      const bool expected = file.find("weight") != std::string::npos && file.find("norm") == std::string::npos &&
                            name != "embeddings.weight";
      EXPECT_EQ(changed, expected) << file << more;
      (expected ? decays : others) += 1;
    }
    EXPECT_GT(decays, 15);
    EXPECT_GT(others, 8);
  }
}

TEST(Decay, OfMatricesFollowsTheirDimensions) {
  const model::ModelConfig config = package_config("");
  model::ParamList list;
  model::declare_params(config, list, "test");
  const auto changed = decayed(config, Decays::kMatrices);
  for (const model::ParamRecord& record : list.records()) {
    EXPECT_EQ(changed.at(record.name), record.shape.rank() >= 2) << record.name;
  }
}

}  // namespace
}  // namespace carousel::train
