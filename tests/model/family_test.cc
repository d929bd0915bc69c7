// SPDX-License-Identifier: Apache-2.0
// The list of families: what must hold across their records.
#include "carousel/model/families/family.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "carousel/core/json.h"
#include "carousel/model/gguf/gguf.h"

namespace carousel::model {
namespace {

TEST(Family, RecordsAreWholeAndTellEachOtherApart) {
  std::set<std::string> types, architectures;
  int whole = 0;
  for (const Family& family : families()) {
    EXPECT_TRUE(types.insert(family.model_type).second) << family.model_type;
    EXPECT_TRUE(family.read && family.names.sources && family.names.ignorable) << family.model_type;
    EXPECT_EQ(known_family(family.model_type), &family);
    if (family.gguf == nullptr) continue;
    const GgufSide& side = *family.gguf;
    EXPECT_TRUE(architectures.insert(side.architecture).second) << side.architecture;
    EXPECT_TRUE(side.read && side.write && side.names.sources && side.names.ignorable) << side.architecture;
    EXPECT_EQ(known_side(side.architecture), &side);
    whole += side.whole ? 1 : 0;
  }
  EXPECT_EQ(whole, 1) << "one side takes the models that have no other";
  EXPECT_EQ(known_family("retnet"), nullptr);
  EXPECT_EQ(known_side("retnet"), nullptr);
}

TEST(Family, AConfigWithoutATypeIsKnownByItsKeys) {
  const auto type = [](const char* text) { return implied_model_type(parse_json(text, "config")); };
  EXPECT_EQ(type(R"({"embedding_dim": 8, "num_heads": 1, "num_blocks": 1})"), "xlstm");
  EXPECT_EQ(type(R"({"embedding_dim": 8, "num_heads": 1, "num_blocks": 1, "slstm_block": {}})"), "xlstm_lm");
  EXPECT_EQ(type(R"({"mlstm_block": {}})"), "xlstm_lm");
  EXPECT_EQ(type(R"({"input_patch_size": 8, "mlstm_block": {}})"), "tirex");
  EXPECT_EQ(type(R"({"model_config": {"input_patch_size": 8}})"), "tirex");
  EXPECT_EQ(type(R"({"embedding_dim": 8})"), "");
}

TEST(Family, GgufTakesTheArchitectureThatSaysAllOfAModel) {
  const auto architecture = [](const char* text) {
    return std::string(gguf_side(parse_config(parse_json(text, "config"), "config")).architecture);
  };
  EXPECT_EQ(architecture(R"({"model_type": "llama", "num_hidden_layers": 1})"), "llama");
  EXPECT_EQ(architecture(R"({"model_type": "lfm2", "num_hidden_layers": 1})"), "lfm2");
  EXPECT_EQ(architecture(R"({"model_type": "lfm2_moe", "num_hidden_layers": 1})"), "lfm2moe");
  EXPECT_EQ(architecture(R"({"model_type": "xlstm", "num_hidden_layers": 1})"), "xlstm");
  EXPECT_EQ(architecture(R"({"model_type": "xlstm", "num_hidden_layers": 1, "layer_types": ["conv"]})"), "carousel");
  EXPECT_EQ(architecture(R"({"model_type": "carousel", "vocab_size": 9, "hidden_size": 8, "layer_types": ["mlstm"]})"),
            "carousel");
  EXPECT_EQ(architecture(R"({"model_type": "cfc", "input_size": 2, "units": 4})"), "carousel");
}

}  // namespace
}  // namespace carousel::model
