// SPDX-License-Identifier: Apache-2.0
// Stacks of every registered layer type, alone and mixed, through init, info, generate, and state files. A new block is
// tested here without an edit.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "carousel/core/json.h"
#include "carousel/model/families/family.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

Json config_of(const std::vector<std::string>& layer_types) {
  return {{"model_type", "carousel"},
          {"vocab_size", 256},
          {"hidden_size", 32},
          {"layer_types", layer_types},
          {"mlstm_config", {{"num_heads", 4}}},
          {"conv_config", {{"kernel_size", 7}}},
          {"attention_config", {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_gate", true}}},
          {"sliding_attention_config", {{"num_heads", 4}, {"window", 5}}},
          {"ffn_config", {{"intermediate_size", 48}}}};
}

std::vector<int64_t> generated(const std::string& command) {
  const Ran ran = run_carousel(command);
  EXPECT_EQ(ran.status, 0) << ran.err;
  std::vector<int64_t> ids;
  std::istringstream lines(ran.out);
  for (std::string line; std::getline(lines, line);) {
    const Json record = parse_json(line, "generate");
    if (record.contains("id")) ids.push_back(record.at("id").get<int64_t>());
  }
  return ids;
}

// Initialised twice, once from its own config: the same file. Generated in one run and in two, the state saved between:
// the same tokens.
void expect_round_trip(const Json& config) {
  SCOPED_TRACE(config.dump());
  const Scratch scratch;
  const std::string model = init_model(scratch, config.dump(), "--seed 5");
  const std::string again = scratch / "again";
  ASSERT_EQ(run_carousel("init " + model + "/config.json --seed 5 --out " + again).status, 0);
  EXPECT_EQ(read_file(model + "/model.safetensors"), read_file(again + "/model.safetensors"));

  const Ran info = run_carousel("info --json " + model);
  ASSERT_EQ(info.status, 0) << info.err;
  const Json described = parse_json(info.out, "info");
  EXPECT_EQ(described.at("layers"), config.at("layer_types").size());
  EXPECT_EQ(described.at("parameters").get<int64_t>() * 4, described.at("bytes_on_disk").get<int64_t>());

  const std::string start = "generate " + model + " -t 2 --ignore-eos --temp 0 --json ";
  const std::string prompt = "-p 'carousel carousel carousel carousel carousel carousel carousel' ";
  const std::string state = scratch / "state.safetensors";
  const std::vector<int64_t> whole = generated(start + prompt + "-n 30");
  std::vector<int64_t> pieces = generated(start + prompt + "-n 11 --save-state " + state);
  const std::vector<int64_t> rest = generated(start + "-n 19 --load-state " + state);
  pieces.insert(pieces.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole.size(), 30u);
  EXPECT_EQ(pieces, whole);
}

TEST(MixedStack, EveryLayerTypeAlone) {
  for (const std::string& type : model::layer_type_names()) expect_round_trip(config_of({type}));
}

TEST(MixedStack, AllLayerTypesInBothOrders) {
  std::vector<std::string> types = model::layer_type_names();
  expect_round_trip(config_of(types));
  std::reverse(types.begin(), types.end());
  Json config = config_of(types);
  config["post_norm"] = true;
  config["tie_word_embeddings"] = true;
  config["ffn_config"]["type"] = "moe";
  config["ffn_config"]["num_dense_layers"] = 2;
  config["moe_config"] = {{"num_experts", 5}, {"num_experts_per_tok", 2}, {"intermediate_size", 24}};
  expect_round_trip(config);
}

TEST(MixedStack, ExpertsStartAfterTheDenseLayers) {
  const Scratch scratch;
  write_file(scratch / "config.json",
             R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32,
                 "layer_types": ["conv", "conv", "full_attention"],
                 "ffn_config": {"type": "moe", "num_dense_layers": 1, "intermediate_size": 40}})");
  const Ran ran = run_carousel("info --json " + (scratch / "config.json"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json described = parse_json(ran.out, "info");
  EXPECT_EQ(described.at("blocks"), "(short_conv, swiglu), (short_conv, moe), (attention, moe)");
  // Of the 8 experts of width 32 in two layers a token uses 2.
  EXPECT_EQ(described.at("parameters").get<int64_t>() - described.at("active_parameters").get<int64_t>(),
            2 * 6 * 3 * 32 * 32);
  write_file(scratch / "config.json",
             R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32, "layer_types": ["conv"],
                 "ffn_config": {"type": "mlstm"}})");
  const Ran refused = run_carousel("info " + (scratch / "config.json"));
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("expected one of: swiglu, moe"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace carousel::cli
