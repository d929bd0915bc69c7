// SPDX-License-Identifier: Apache-2.0
// carousel convert: to GGUF and back bit for bit, and every command on a .gguf as on the folder it came from.
#include "carousel/formats/gguf.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

void expect_same_logits(const std::string& a, const std::string& b) {
  const std::vector<int32_t> tokens = {5, 9, 2, 17, 3};
  Library first(a), second(b);
  EXPECT_EQ(first.step(tokens), second.step(tokens)) << "bit for bit";
}

struct Kind {
  const char* name;
  std::string config;
  const char* dtype;
};

class ConvertKind : public testing::TestWithParam<Kind> {};

TEST_P(ConvertKind, RoundTripsBitForBit) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, GetParam().config, std::string("--dtype ") + GetParam().dtype);
  const std::string gguf = scratch / "model.gguf", back = scratch / "back", again = scratch / "again.gguf";
  ASSERT_EQ(run_carousel("convert " + folder + " --out " + gguf).status, 0);
  const Ran ran = run_carousel("convert " + gguf + " --out " + back);
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_EQ(tensors_of(folder), tensors_of(back));
  expect_same_logits(folder, gguf);
  expect_same_logits(folder, back);
  ASSERT_EQ(run_carousel("convert " + back + " --out " + again).status, 0);
  EXPECT_EQ(tensors_of(gguf), tensors_of(again));
}

const std::string kTinyMoe = R"({"model_type": "lfm2_moe", "vocab_size": 256, "hidden_size": 32,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
  "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 1,
  "layer_types": ["conv", "full_attention", "conv"]})";
const std::string kBiasedLlama = R"({"model_type": "llama", "vocab_size": 256, "hidden_size": 32,
  "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false, "rope_theta": 500000, "rope_scaling":
  {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
   "original_max_position_embeddings": 8192}})";
const std::string kBiasedConv = R"({"model_type": "lfm2", "vocab_size": 256, "hidden_size": 32,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "block_ff_dim": 96, "conv_bias": true,
  "block_multiple_of": 16, "full_attn_idxs": [1], "conv_L_cache": 5, "tie_embedding": false})";
const std::string kOddXlstm = R"({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 36, "num_hidden_layers": 2,
  "num_heads": 3, "qk_dim_factor": 0.67, "v_dim_factor": 1.17, "ffn_proj_factor": 1.9, "ffn_round_up_to_multiple_of": 5,
  "use_bias": true, "gate_soft_cap": null, "output_logit_soft_cap": null, "norm_eps": 1e-5})";

// null is the default: of a key that names tensors, and of two whose layers are not there.
const std::string kNullXlstm = R"({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 1,
  "num_heads": null, "weight_mode": null})";
const std::string kNullConv = R"({"model_type": "lfm2", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 1,
  "num_attention_heads": null, "block_ff_dim": 96, "layer_types": ["conv"]})";
const std::string kNullMoe = R"({"model_type": "lfm2_moe", "vocab_size": 256, "hidden_size": 32,
  "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": null,
  "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 0,
  "layer_types": ["full_attention"]})";

INSTANTIATE_TEST_SUITE_P(All, ConvertKind,
                         testing::Values(Kind{"xlstm", kTinyXlstm, "bf16"}, Kind{"odd_xlstm", kOddXlstm, "f32"},
                                         Kind{"lfm2", kTinyLfm2, "f16"}, Kind{"biased_conv", kBiasedConv, "bf16"},
                                         Kind{"llama", kTinyLlama, "f16"}, Kind{"biased_llama", kBiasedLlama, "f32"},
                                         Kind{"moe", kTinyMoe, "bf16"}, Kind{"mixed", kTinyMixed, "bf16"},
                                         Kind{"null_xlstm", kNullXlstm, "f32"}, Kind{"null_conv", kNullConv, "f32"},
                                         Kind{"null_moe", kNullMoe, "f32"}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(Convert, EveryCommandTakesTheFile) {
  const Scratch scratch;
  const std::string folder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm", gguf = scratch / "s.gguf";
  ASSERT_EQ(run_carousel("convert " + folder + " --out " + gguf).status, 0);
  write_file(scratch / "text", "Once upon a time, there was a little girl named Lily.");
  const std::vector<std::string> commands = {
      "tokenize MODEL -p 'Once upon a time'", "generate MODEL -p 'Once upon a time' -n 12 --temp 0",
      "generate MODEL -p 'The dragon' -n 12 --seed 3", "eval MODEL --json --text " + (scratch / "text")};
  for (const std::string& command : commands) {
    const auto run = [&](const std::string& model) {
      std::string line = command;
      return run_carousel(line.replace(line.find("MODEL"), 5, model));
    };
    const Ran from_folder = run(folder), from_file = run(gguf);
    EXPECT_EQ(from_file.status, 0) << from_file.err;
    if (command.starts_with("eval")) {
      Json a = parse_json(from_folder.out, "a"), b = parse_json(from_file.out, "b");
      ASSERT_TRUE(a["text"]["nats_per_token"].is_number()) << a;
      EXPECT_EQ(a["text"], b["text"]);
    } else {
      EXPECT_EQ(from_folder.out, from_file.out) << command;
    }
  }
  const Json info = parse_json(run_carousel("info --json " + gguf).out, "info");
  EXPECT_EQ(info["model_type"], "xlstm");
  EXPECT_EQ(info["tokenizer"]["tokens"], 4096);
  EXPECT_EQ(info["warnings"], Json::array());
  EXPECT_EQ(run_carousel("bench " + gguf + " -p 8 -n 4 -r 1").status, 0);
}

TEST(Convert, TheChatTemplateGoesAlong) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyLlama), gguf = scratch / "m.gguf";
  write_file(folder + "/chat_template.jinja", "{{ messages }} \xC3\xA9");
  ASSERT_EQ(run_carousel("convert " + folder + " --out " + gguf).status, 0);
  ASSERT_EQ(run_carousel("convert " + gguf + " --out " + (scratch / "back")).status, 0);
  EXPECT_EQ(read_file(scratch / "back/chat_template.jinja"), "{{ messages }} \xC3\xA9");
  const Ran ran = run_carousel("chat " + gguf, "a\n");
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("its chat template is not plain ChatML"), std::string::npos) << ran.err;
}

std::vector<int64_t> ends_of(const std::string& path) {
  const model::ModelPath place = model::resolve(path);
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(place.weights);
  return model::read_model_config(place, &checkpoint).eos_token_ids;
}

TEST(Convert, EveryEndTokenGoesAlong) {
  for (std::string config : {kTinyLlama, kTinyMixed}) {
    const Scratch scratch;
    const std::string folder = init_model(scratch, config.insert(1, R"("eos_token_id": [2, 7], )"));
    const std::string gguf = scratch / "m.gguf", smaller = scratch / "q.gguf", back = scratch / "back";
    write_file(folder + "/generation_config.json", R"({"eos_token_id": [7, 9, 11]})");
    ASSERT_EQ(run_carousel("convert " + folder + " --out " + gguf).status, 0);
    ASSERT_EQ(run_carousel("quantize " + gguf + " --type q8 --out " + smaller).status, 0);
    ASSERT_EQ(run_carousel("convert " + gguf + " --out " + back).status, 0);
    for (const std::string& model : {gguf, smaller, back}) {
      EXPECT_EQ(ends_of(model), (std::vector<int64_t>{2, 7, 9, 11})) << model;
    }
  }
}

TEST(Convert, WhatStandsBesideAFolderGoesAlong) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyLlama), out = scratch / "out";
  const auto names = {"chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json",
                      "generation_config.json"};
  for (const char* name : names) write_file(folder + "/" + name, "{}");
  const Ran ran = run_carousel("convert " + folder + " --out " + out);
  ASSERT_EQ(ran.status, 0) << ran.err;
  for (const char* name : names) EXPECT_EQ(read_file(out + "/" + name), "{}") << name;
}

// What a file cannot hold is replaced in the name, and refused in a template, before a reader has to refuse the file.
TEST(Convert, TextsThatAreNotUtf8) {
  const Scratch scratch;
  const std::string folder = scratch / "mod\xE9l", gguf = scratch / "m.gguf";
  std::filesystem::rename(init_model(scratch, kTinyLlama), folder);
  const Ran named = run_carousel("convert '" + folder + "' --out " + gguf);
  ASSERT_EQ(named.status, 0) << named.err;
  EXPECT_EQ(formats::GgufFile::open(gguf).metadata().values.at("general.name"), "mod\xEF\xBF\xBDl");
  write_file(folder + "/chat_template.jinja", "caf\xE9 {{ messages }}");
  const Ran ran = run_carousel("convert '" + folder + "' --out " + (scratch / "t.gguf"));
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("key \"tokenizer.chat_template\" is not valid UTF-8"), std::string::npos) << ran.err;
  EXPECT_TRUE(is_absent(scratch / "t.gguf"));
}

TEST(Convert, VerifyTakesAFolderWithOneGguf) {
  const Scratch scratch;
  const std::string folder = CAROUSEL_SOURCE_DIR "/tests/fixtures/models/lfm2-v4";
  std::filesystem::create_directory(scratch / "case");
  std::filesystem::copy_file(folder + "/expected.safetensors", scratch / "case/expected.safetensors");
  ASSERT_EQ(run_carousel("convert " + folder + " --out " + (scratch / "case/model.gguf")).status, 0);
  const Ran ran = run_carousel("verify --strict " + (scratch / "case"));
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
}

// A file's key says `value` instead.
std::string with_key(std::string gguf, const std::string& key, uint32_t value) {
  const size_t at = gguf.find(key);
  EXPECT_NE(at, std::string::npos) << key;
  gguf.replace(at + key.size() + sizeof(uint32_t), sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
  return gguf;
}

TEST(Gguf, TheTensorsDecideWhereAWidthIsWrong) {
  const Scratch scratch;
  const std::pair<const char*, const char*> keys[] = {{"llama", "llama.feed_forward_length"},
                                                      {"lfm2", "lfm2.feed_forward_length"},
                                                      {"xlstm", "xlstm.feed_forward_length"},
                                                      {"lfm2moe", "lfm2moe.feed_forward_length"},
                                                      {"lfm2moe", "lfm2moe.expert_feed_forward_length"}};
  for (const auto& [name, key] : keys) {
    const std::string file = CAROUSEL_SOURCE_DIR "/tests/fixtures/gguf/" + std::string(name) + ".gguf";
    write_file(scratch / "wrong.gguf", with_key(read_file(file), key, 7777));
    const Ran right = run_carousel("eval " + file + " --text " CAROUSEL_SOURCE_DIR "/tests/fixtures/chat/branches.txt");
    const Ran wrong = run_carousel("eval " + (scratch / "wrong.gguf") +
                                   " --text " CAROUSEL_SOURCE_DIR "/tests/fixtures/chat/branches.txt");
    EXPECT_EQ(wrong.status, 0) << wrong.err;
    EXPECT_EQ(wrong.out.substr(wrong.out.find("tokens")), right.out.substr(right.out.find("tokens"))) << key;
    EXPECT_NE(wrong.err.find("\"" + std::string(key) + "\" is 7777, but \"blk."), std::string::npos) << wrong.err;
    EXPECT_EQ(right.err.find("using theirs"), std::string::npos);
  }
}

TEST(Convert, Refusals) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyLlama), gguf = scratch / "m.gguf";
  ASSERT_EQ(run_carousel("convert " + folder + " --out " + gguf).status, 0);
  const auto expect = [&](const std::string& arguments, int status, const std::string& message) {
    const Ran ran = run_carousel(arguments);
    EXPECT_EQ(ran.status, status) << arguments;
    EXPECT_NE(ran.err.find(message), std::string::npos) << arguments << ": " << ran.err;
  };
  expect("convert " + gguf + " --out " + folder, 1, "exists and is not an empty folder");
  expect("convert " + gguf, 2, "--out is required");
  expect("convert " + gguf + " --dtype bf16 --out " + (scratch / "n.gguf"), 2, "--dtype: got bf16 for ");
  expect("convert " + (scratch / "nothing.gguf") + " --out " + (scratch / "x"), 1, "no such file or folder");
  expect("convert " + (scratch / "config.json") + " --out " + (scratch / "x"), 1, "no weights to convert");
  write_file(scratch / "cut.gguf", read_file(gguf).substr(0, 5000));
  expect("generate " + (scratch / "cut.gguf") + " -p a", 1, "the file is truncated");
  write_file(scratch / "text.gguf", "some text that is no model");
  expect("info " + (scratch / "text.gguf"), 1, "not a");
  write_file(scratch / "model/tokenizer.json", "{}");
  for (const char* out : {"t.gguf", "t"}) {
    expect("convert " + folder + " --out " + (scratch / out), 1, "tokenizer.json: ");
    EXPECT_TRUE(is_absent(scratch / out));
  }
  expect("init " + gguf + " --out " + (scratch / "y"), 1, "a GGUF file, expected a config.json");
  std::filesystem::create_directory(scratch / "two");
  for (const char* name : {"two/a.gguf", "two/b.gguf"}) std::filesystem::copy_file(gguf, scratch / name);
  expect("info " + (scratch / "two"), 1, "2 GGUF models, among them");
}

}  // namespace
}  // namespace carousel::cli
