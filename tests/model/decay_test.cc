// SPDX-License-Identifier: Apache-2.0
// Which parameters decay in the groups of the xLSTM paper of 2024, against its rule on the xlstm package's names: those
// with "weight" and without "norm", no token embedding.
#include <gtest/gtest.h>

#include "carousel/model/load.h"

namespace carousel::model {
namespace {

TEST(PaperDecay, FollowsTheNamesOfThePackage) {
  const Json json = parse_json(
      R"({"model_type": "xlstm_lm", "vocab_size": 64, "context_length": 32, "num_blocks": 2, "embedding_dim": 32,
          "mlstm_block": {"mlstm": {"num_heads": 2}}, "slstm_block": {"slstm": {"num_heads": 2}, "feedforward": {}},
          "slstm_at": [1]})",
      "test");
  const Family& family = find_family("xlstm_lm", "test");
  const ModelConfig config = family.read(json, "test", {});
  ParamList list;
  declare_params(config, list, "test");
  int64_t decays = 0, others = 0;
  for (const ParamRecord& record : list.records()) {
    const std::string file = family.names.sources(config, record.name).front().file_name;
    const bool expected = file.find("weight") != std::string::npos && file.find("norm") == std::string::npos &&
                          record.name != "embeddings.weight";
    EXPECT_EQ(record.init.decays, expected) << file;
    (expected ? decays : others) += 1;
  }
  EXPECT_GT(decays, 8);
  EXPECT_GT(others, 8);
}

}  // namespace
}  // namespace carousel::model
