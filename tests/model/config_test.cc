// SPDX-License-Identifier: Apache-2.0
// Every spelling of a config, and every refusal by name.
#include "carousel/model/config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "carousel/core/error.h"
#include "carousel/model/load.h"

namespace carousel::model {
namespace {

ModelConfig parse(const std::string& text, const ShapeOf& shape_of = {}) {
  return parse_config(parse_json(text, "config.json"), "config.json", shape_of);
}

// What a config is refused with; building on shapes alone also checks the blocks' options.
std::string refusal(const std::string& text) {
  try {
    measure(parse(text), "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

int64_t ffn_width(const std::string& text, const ShapeOf& shape_of = {}) {
  for (const Sublayer& sublayer : parse(text, shape_of).sublayers) {
    if (sublayer.block == "swiglu") return sublayer.options["intermediate_size"].get<int64_t>();
  }
  return -1;
}

std::vector<std::string> mixers(const ModelConfig& config) {
  std::vector<std::string> names;
  for (const Sublayer& sublayer : config.sublayers) {
    if (sublayer.block != "swiglu") names.push_back(sublayer.block);
  }
  return names;
}

TEST(XlstmConfig, DefaultsAreXlstm7B) {
  const ModelSize size = measure(parse(R"({"model_type": "xlstm"})"), "config.json");
  EXPECT_EQ(size.parameters, 6865424896);                             // arXiv:2503.13427, app. A
  EXPECT_EQ(size.state_layout.bytes_at(0), 33620224u * 4 + 32 * 32);  // C, n, m; each m of 8 floats padded to 64 bytes
}

TEST(XlstmConfig, CountsOfSmallShapes) {
  const auto count = [](const char* fields) {
    return measure(parse(std::string(R"({"model_type": "xlstm", )") + fields + "}"), "c").parameters;
  };
  EXPECT_EQ(count(R"("vocab_size": 2048, "hidden_size": 512, "num_blocks": 6, "num_heads": 4)"), 21399088);
  EXPECT_EQ(count(R"("vocab_size": 512, "embedding_dim": 256, "num_hidden_layers": 2, "num_heads": 4)"), 1873680);
  EXPECT_EQ(count(R"("hidden_size": 768, "num_hidden_layers": 12, "num_heads": 4)"), 162303840);
  EXPECT_EQ(count(R"("hidden_size": 2560, "num_hidden_layers": 32, "num_heads": 5)"), 2780449600);
}

TEST(XlstmConfig, CapsMayBeNull) {
  const ModelConfig config =
      parse(R"({"model_type": "xlstm", "gate_soft_cap": null, "output_logit_soft_cap": null, "hidden_size": 64,
                "num_hidden_layers": 1, "vocab_size": 16})");
  EXPECT_EQ(config.logit_soft_cap, 0);
  EXPECT_EQ(config.sublayers[0].options["gate_soft_cap"].get<double>(), 0);
}

TEST(XlstmConfig, OutNormFollowsTheFile) {
  const char* text = R"({"model_type": "xlstm", "add_out_norm": false})";
  EXPECT_EQ(parse(text).final_norm.kind, ops::Norm::Kind::kNone);
  const ShapeOf has_norm = [](const std::string& name) {
    return name == "backbone.out_norm.weight" ? std::optional<Shape>(Shape{4096}) : std::nullopt;
  };
  EXPECT_EQ(parse(text, has_norm).final_norm.kind, ops::Norm::Kind::kRms);
}

TEST(XlstmConfig, RefusesByName) {
  EXPECT_EQ(refusal(R"({"model_type": "xlstm", "num_heads": 0})"),
            "config.json: \"num_heads\" is 0, expected an integer from 1 to 16777216");
  EXPECT_EQ(refusal(R"({"model_type": "xlstm", "num_heads": 7})"),
            "config.json: layers.0.mlstm: 2048 query and 4096 value channels do not divide into \"num_heads\" 7");
  EXPECT_EQ(refusal(R"({"model_type": "xlstm", "weight_mode": "both"})"),
            "config.json: \"weight_mode\" is \"both\", expected one of: single, fused");
  EXPECT_EQ(refusal(R"({"model_type": "xlstm", "hidden_size": 512, "embedding_dim": 256})"),
            "config.json: \"embedding_dim\" is 256 and \"hidden_size\" is 512, expected the same number");
  EXPECT_NE(
      refusal(R"({"model_type": "xlstm", "chunkwise_kernel": "chunkwise--triton_xl_chunk_siging"})").find("mLSTMsig"),
      std::string::npos);
  EXPECT_EQ(refusal(R"({"model_type": "xlstm", "hidden_size": "wide"})"),
            "config.json: \"hidden_size\" is \"wide\", expected an integer from 1 to 16777216");
}

// The reference computes 0 tanh(x / 0) for a cap of 0.
TEST(XlstmConfig, CapsAreNotZero) {
  for (const std::string key : {"gate_soft_cap", "output_logit_soft_cap"}) {
    EXPECT_EQ(refusal(R"({"model_type": "xlstm", ")" + key + R"(": 0})"),
              "config.json: \"" + key + "\" is 0, expected a number above 0, or null for no cap");
  }
}

TEST(XlstmConfig, TakesLayerTypes) {
  const ModelConfig config =
      parse(R"({"model_type": "xlstm", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 9,
      "layer_types": ["mlstm", "conv", "ffn_only"], "conv_config": {"kernel_size": 4}})");
  EXPECT_EQ(mixers(config), (std::vector<std::string>{"mlstm", "short_conv"}));
  EXPECT_EQ(config.sublayers.size(), 5u);
}

TEST(CfcConfig, TheActivationHasOneValue) {
  const auto said = [](const std::string& other) {
    return refusal(R"({"model_type": "cfc", "input_size": 2, "units": 4, "activation": "relu",
      "backbone_activation": ")" +
                   other + R"("})");
  };
  EXPECT_EQ(said("relu"), "accepted");
  EXPECT_EQ(said("tanh"),
            R"(config.json: "activation" is "relu" and "backbone_activation" is "tanh", expected the same)");
}

// specs of the released models: parameters published to the unit.
TEST(Lfm2Config, CountsOfTheReleasedSizes) {
  const auto count = [](const char* fields) {
    return measure(parse(std::string(R"({"model_type": "lfm2", "vocab_size": 65536, "num_key_value_heads": 8, )") +
                         fields + "}"),
                   "c")
        .parameters;
  };
  EXPECT_EQ(count(R"("hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16, "block_ff_dim": 6656,
                     "full_attn_idxs": [2, 5, 8, 10, 12, 14])"),
            354483968);
  EXPECT_EQ(count(R"("hidden_size": 2048, "num_hidden_layers": 30, "num_attention_heads": 32, "block_ff_dim": 10752,
                     "block_auto_adjust_ff_dim": false, "full_attn_idxs": [2, 5, 9, 13, 17, 21, 24, 27])"),
            2569272320);
}

TEST(Lfm2Config, FfnWidthRules) {
  const std::string head = R"({"model_type": "lfm2", "num_hidden_layers": 1, )";
  EXPECT_EQ(ffn_width(head + R"("block_ff_dim": 6656})"), 4608);
  EXPECT_EQ(ffn_width(head + R"("block_ff_dim": 10240})"), 6912);
  EXPECT_EQ(ffn_width(head + R"("intermediate_size": 8192, "block_ff_dim": 12288})"), 8192);
  EXPECT_EQ(ffn_width(head + R"("intermediate_size": 12288})"), 8192);
  EXPECT_EQ(ffn_width(head + R"("block_ff_dim": 10752, "block_auto_adjust_ff_dim": false})"), 10752);
  EXPECT_EQ(ffn_width(head + R"("block_ff_dim": 6656, "block_ffn_dim_multiplier": null})"), 4608);
  const ShapeOf stored = [](const std::string& name) {
    return name == "model.layers.0.feed_forward.w1.weight" ? std::optional<Shape>(Shape{8192, 2560}) : std::nullopt;
  };
  const std::string contradicting = head + R"("intermediate_size": 8192})";
  EXPECT_EQ(ffn_width(contradicting, stored), 8192);
  EXPECT_EQ(parse(contradicting, stored).warnings.size(), 1u);
}

TEST(Lfm2Config, LayersAndTyingInEverySpelling) {
  const std::string head =
      R"({"model_type": "lfm2", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, )";
  const std::vector<std::string> conv_attention{"short_conv", "attention"};
  EXPECT_EQ(mixers(parse(head + R"("full_attn_idxs": [1]})")), conv_attention);
  EXPECT_EQ(mixers(parse(head + R"("layer_types": ["conv", "full_attention"], "full_attn_idxs": [0]})")),
            conv_attention);
  EXPECT_EQ(mixers(parse(head + R"("norm_eps": 1e-5})")), (std::vector<std::string>{"attention", "attention"}));
  EXPECT_TRUE(parse(head + R"("norm_eps": 1e-5})").tie_word_embeddings);
  EXPECT_FALSE(parse(head + R"("tie_embedding": false, "tie_word_embeddings": true})").tie_word_embeddings);
  const auto theta = [](const ModelConfig& config) { return config.sublayers[0].options["rope_theta"].get<double>(); };
  EXPECT_EQ(theta(parse(head + R"("norm_eps": 1e-5})")), 1e6);
  EXPECT_EQ(theta(parse(head + R"("rope_theta": 1e7})")), 1e7);
  EXPECT_EQ(theta(parse(head + R"("rope_theta": 1, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}})")),
            5e6);
}

TEST(Lfm2Config, RefusesByName) {
  EXPECT_NE(
      refusal(R"({"model_type": "lfm2", "architectures": ["Lfm2BidirectionalModel"]})").find("Lfm2BidirectionalModel"),
      std::string::npos);
  EXPECT_NE(refusal(R"({"model_type": "lfm2", "rope_parameters": {"rope_type": "yarn"}})").find("\"yarn\""),
            std::string::npos);
  EXPECT_NE(
      refusal(R"({"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": ["conv"]})").find("names 1 layers"),
      std::string::npos);
  EXPECT_NE(refusal(R"({"model_type": "lfm2", "num_hidden_layers": 2, "full_attn_idxs": [2]})").find("full_attn_idxs"),
            std::string::npos);
}

TEST(CarouselConfig, MixesLayersWithAndWithoutFfn) {
  const ModelConfig config = parse(R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32,
      "layer_types": ["mlstm", "conv", "full_attention", "ffn_only"], "conv_config": {"ffn": false, "kernel_size": 4},
      "slstm_config": {}, "ncps_config": {}, "ffn_config": {"intermediate_size": 48}})");
  std::vector<std::string> names;
  for (const Sublayer& sublayer : config.sublayers) names.push_back(sublayer.name);
  EXPECT_EQ(names, (std::vector<std::string>{"layers.0.mlstm", "layers.0.ffn", "layers.1.conv",
                                             "layers.2.full_attention", "layers.2.ffn", "layers.3.ffn"}));
  EXPECT_EQ(config.num_layers, 4);
  EXPECT_GT(measure(config, "config.json").parameters, 0);
}

TEST(CarouselConfig, WithoutLayerTypesAllLayersAreMlstm) {
  const ModelConfig config =
      parse(R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3})");
  EXPECT_EQ(mixers(config), (std::vector<std::string>{"mlstm", "mlstm", "mlstm"}));
}

TEST(CarouselConfig, UnknownTypesAndKeysListTheKnownOnes) {
  const std::string head = R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32, )";
  const std::string unknown = refusal(head + R"("layer_types": ["gru"]})");
  EXPECT_EQ(unknown.find("config.json: unknown layer type \"gru\"; known types: conv, ffn_only, "), 0u);
  EXPECT_NE(unknown.find("mlstm, mlstm_v1, moe"), std::string::npos);
  EXPECT_NE(refusal(head + R"("num_hidden_layers": 1, "colour": 3})").find("unknown key \"colour\"; known keys: "),
            std::string::npos);
  EXPECT_NE(refusal(head + R"("num_hidden_layers": 1, "mlstm_config": {"num_head": 4}})")
                .find("layers.0.mlstm: unknown key \"num_head\"; known keys: "),
            std::string::npos);
  EXPECT_NE(refusal(head + R"("num_hidden_layers": 2, "layer_types": ["mlstm"]})").find("names 1 layers"),
            std::string::npos);
  EXPECT_NE(refusal(head + R"("num_hidden_layers": 1, "mlstm_config": {"ffn": 1}})").find("expected true or false"),
            std::string::npos);
}

TEST(Config, UnknownModelTypeListsTheKnownOnes) {
  const std::string unknown = refusal(R"({"model_type": "gpt2"})");
  EXPECT_EQ(unknown.find("config.json: model_type \"gpt2\" is not supported; known types: carousel, "), 0u);
  EXPECT_EQ(refusal(R"({"vocab_size": 2})"), "config.json: \"model_type\" is missing");
  EXPECT_NE(refusal(R"({"model_type": "llama", "quantization_config": {}})").find("quantization_config"),
            std::string::npos);
}

// Values of transformers 5.24.0's LlamaConfig and Lfm2Config, from_dict: of both keys the older one alone counts.
TEST(RopeConfig, RopeScalingWinsAsInTransformers) {
  const std::string llama3 = R"("rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, )";
  const std::string whole = llama3 + R"("original_max_position_embeddings": 64)";
  struct Case {
    std::string keys, type;
    double llama_theta, lfm2_theta;
    int64_t original;
  };
  const std::string plain = R"("rope_parameters": {"rope_type": "default", "rope_theta": 3e5})";
  const Case cases[] = {
      {R"("rope_theta": 5e5, "rope_scaling": {)" + whole + "}, " + plain, "llama3", 5e5, 5e5, 64},
      {R"("rope_scaling": {)" + whole + "}, " + plain, "llama3", 1e4, 1e6, 64},
      {R"("rope_theta": 5e5, "rope_scaling": {"rope_theta": 7e5, )" + whole + "}", "llama3", 7e5, 7e5, 64},
      {R"("rope_scaling": {}, )" + plain, "default", 3e5, 3e5, 0},
      {R"("rope_scaling": null, "rope_parameters": {"rope_theta": 3e5, )" + whole + "}", "llama3", 3e5, 3e5, 64},
      {R"("max_position_embeddings": 777, "rope_scaling": {"rope_theta": 1e4, )" + llama3.substr(0, llama3.size() - 2) +
           "}",
       "llama3", 1e4, 1e4, 777},
      {R"("rope_theta": 9e4, "rope_scaling": {"type": "default"}, "rope_parameters": {)" + whole + "}", "default", 9e4,
       9e4, 0},
  };
  for (const Case& one : cases) {
    for (const std::string family : {"llama", "lfm2", "lfm2_moe"}) {
      const ModelConfig config =
          parse(R"({"model_type": ")" + family + R"(", "num_hidden_layers": 1, "layer_types": ["full_attention"], )" +
                one.keys + "}");
      const Json& options = config.sublayers.at(0).options;
      EXPECT_EQ(options.at("rope_type"), one.type) << family << one.keys;
      EXPECT_EQ(options.at("rope_theta"), family == "llama" ? one.llama_theta : one.lfm2_theta) << family << one.keys;
      EXPECT_EQ(options.value("rope_original_max_position", int64_t{0}), one.original) << one.keys;
    }
  }
}

TEST(RopeConfig, EveryOtherTypeIsRefusedByNameWhereverItStands) {
  for (const std::string type : {"linear", "dynamic", "yarn", "longrope", "proportional", "mrope", "su"}) {
    const std::string other = "\"" + type + "\", \"factor\": 2}";
    for (const std::string& keys : {R"("rope_scaling": {"type": )" + other, R"("rope_scaling": {"rope_type": )" + other,
                                    R"("rope_parameters": {"rope_type": )" + other,
                                    R"("rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": )" + other,
                                    R"("rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": )" + other,
                                    R"("rope_scaling": {"rope_type": "default", "type": )" + other,
                                    R"("rope_parameters": {"full_attention": {"rope_type": )" + other + "}"}) {
      for (const std::string family : {"llama", "lfm2", "lfm2_moe"}) {
        const std::string got = refusal(R"({"model_type": ")" + family + "\", " + keys + "}");
        EXPECT_NE(got.find("\"" + type + "\", expected one of: default, llama3"), std::string::npos) << got;
      }
    }
    const std::string mixed = refusal(R"({"model_type": "carousel", "vocab_size": 8, "hidden_size": 8, "layer_types":
        ["full_attention"], "attention_config": {"num_heads": 2, "rope_type": ")" +
                                      type + R"("}})");
    EXPECT_NE(mixed.find("\"" + type + "\", expected one of: default, llama3"), std::string::npos) << mixed;
  }
  const std::string head = R"({"model_type": "llama", )";
  EXPECT_NE(refusal(head + R"("rope_parameters": {"full_attention": {"rope_theta": 1e4}}})")
                .find("rotary positions of its own"),
            std::string::npos);
  EXPECT_NE(refusal(head + R"("partial_rotary_factor": 0.5})").find("partial_rotary_factor"), std::string::npos);
}

TEST(Config, PaddingIsThatOfTheReferencesLookUp) {
  const auto padding = [](const char* type, const char* token) {
    const std::string more = *token != '\0' ? fmt::format(", \"pad_token_id\": {}", token) : "";
    const std::string text =
        fmt::format(R"({{"model_type": "{}", "vocab_size": 9, "num_hidden_layers": 0{}}})", type, more);
    return parse_config(parse_json(text, "config"), "config").padding_token;
  };
  for (const char* type : {"llama", "lfm2", "lfm2_moe"}) {
    EXPECT_EQ(padding(type, "2"), 2) << type;
    EXPECT_EQ(padding(type, "-1"), 8) << type;
    EXPECT_EQ(padding(type, "null"), -1) << type;
    EXPECT_EQ(padding(type, "9"), -1) << type;
    EXPECT_EQ(padding(type, "-10"), -1) << type;
  }
  EXPECT_EQ(padding("llama", ""), -1);
  EXPECT_EQ(padding("lfm2", ""), 0);
  EXPECT_EQ(padding("xlstm", "2"), -1);
}

TEST(LlamaConfig, RefusesOtherActivationsAndScalings) {
  EXPECT_NE(refusal(R"({"model_type": "llama", "hidden_act": "gelu"})").find("hidden_act"), std::string::npos);
  EXPECT_NE(refusal(R"({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2}})").find("linear"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"model_type": "llama", "num_key_value_heads": 5})").find("multiple"), std::string::npos);
}

}  // namespace
}  // namespace carousel::model
