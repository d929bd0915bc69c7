// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <tuple>

#include "carousel/core/json.h"
#include "carousel/formats/new_file.h"
#include "tests/cli/wide_model.h"

namespace carousel::cli {
namespace {

// A stored mask, one that leaves few weights, and parameters that are no matrices though they have two dimensions.
constexpr const char* kTinyWired = R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32,
    "num_hidden_layers": 2, "layer_types": ["mlstm", "ncps_ltc"], "ncps_config": {"units": 16},
    "mlstm_config": {"num_heads": 2, "wiring": {"q": {"type": "checkpoint", "init": {"type": "random", "sparsity": 0.5}},
                                                "v": {"type": "random", "sparsity": 0.95}}}})";

// Matrices of which a tenth is live: held as bits and live codes, written as blocks with zeros.
constexpr const char* kSparse = R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 64,
    "num_hidden_layers": 2, "layer_types": ["mlstm", "conv"],
    "mlstm_config": {"num_heads": 2, "wiring": {"*": {"type": "random", "sparsity": 0.9, "polarity": true}}},
    "ffn_config": {"wiring": {"*": {"type": "random", "sparsity": 0.98}}}})";

class QuantizeFamily : public testing::TestWithParam<const char*> {};

TEST_P(QuantizeFamily, GivesTheTextThatWeightsGive) {
  for (const char* type : {"q8", "q4", "bf16"}) {
    const Scratch scratch;
    const std::string folder = init_model(scratch, GetParam()), out = scratch / "out";
    const Ran ran = run_carousel("quantize " + folder + " --type " + type + " --out " + out);
    ASSERT_EQ(ran.status, 0) << ran.err;
    EXPECT_EQ(ran.out.find("weights "), 0u) << ran.out;
    const std::string flags = " -p abc -n 8 --temp 0 --ignore-eos";
    const Ran written = run_carousel("generate " + out + flags);
    const Ran loaded = run_carousel("generate " + folder + " --weights " + type + flags);
    EXPECT_EQ(written.status, 0) << written.err;
    EXPECT_EQ(written.out, loaded.out) << type;
    const Ran gguf = run_carousel("quantize " + folder + " --type " + type + " --out " + (scratch / "q.gguf"));
    EXPECT_EQ(gguf.status, 0) << gguf.err;
    EXPECT_EQ(run_carousel("generate " + (scratch / "q.gguf") + flags).out, loaded.out) << type;
    // By way of a GGUF file the folder is the same.
    const std::string plain = scratch / "plain.gguf", way = scratch / "way";
    ASSERT_EQ(run_carousel("convert " + folder + " --out " + plain).status, 0);
    const Ran from_gguf = run_carousel("quantize " + plain + " --type " + type + " --out " + way);
    ASSERT_EQ(from_gguf.status, 0) << from_gguf.err;
    EXPECT_EQ(tensors_of(way), tensors_of(out)) << type;
    EXPECT_EQ(run_carousel("generate " + way + flags).out, loaded.out) << type;
    EXPECT_EQ(run_carousel("info " + out).status, 0);
    EXPECT_EQ(run_carousel("bench " + out + " -p 8 -n 2 -r 1 -t 1").status, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, QuantizeFamily,
                         testing::Values(kTinyXlstm, kTinyLfm2, kTinyLlama, kTinyMixed, kTinyWired, kSparse));

// Files of the public gguf package with blocks of many kinds: a folder holds what --weights holds, and nothing more is
// lost of what keeps its type.
TEST(Quantize, AGgufFileOfBlocksIntoAFolder) {
  for (const char* name : {"llama.gguf", "split-00001-of-00003.gguf", "lfm2.gguf", "lfm2moe.gguf", "xlstm.gguf"}) {
    const std::string gguf = std::string(CAROUSEL_SOURCE_DIR "/tests/fixtures/gguf/") + name;
    for (const DType dtype : {DType::kQ4, DType::kQ8, DType::kBF16}) {
      const Scratch scratch;
      const std::string type = dtype == DType::kQ4 ? "q4" : dtype == DType::kQ8 ? "q8" : "bf16";
      const Ran ran = run_carousel("quantize " + gguf + " --type " + type + " --out " + (scratch / "out") +
                                   (dtype == DType::kBF16 ? " --embeddings bf16 --head bf16 --gates bf16" : ""));
      ASSERT_EQ(ran.status, 0) << ran.err;
      EXPECT_EQ(ran.err.find("warning"), std::string::npos) << ran.err;
      model::WeightTypes types;
      types.body = dtype;
      if (dtype == DType::kBF16) types = {dtype, dtype, dtype, dtype};
      const std::vector<int32_t> tokens = {5, 9, 2, 17, 3};
      Library loaded(gguf, types), written(scratch / "out");
      EXPECT_EQ(loaded.step(tokens), written.step(tokens)) << name << " " << type;
      EXPECT_EQ(loaded.model.text().encode("a b"), written.model.text().encode("a b"));
    }
  }
}

TEST(Quantize, BlocksOf256GiveTheTextThatWeightsGive) {
  for (const char* config : {kWideLlama, kWideXlstm}) {
    for (const char* type : {"q4_k", "q5_k", "q6_k", "q4_k_m", "q5_k_m"}) {
      const Scratch scratch;
      const std::string folder = init_model(scratch, config), out = scratch / "out", gguf = scratch / "q.gguf";
      const std::string command = "quantize " + folder + " --type " + type + " --out ";
      for (const std::string& where : {out, gguf}) {
        const Ran ran = run_carousel(command + where + " -t 1");
        ASSERT_EQ(ran.status, 0) << ran.err;
        EXPECT_EQ(config == kWideLlama, ran.err.find("rows of 288 are no whole blocks of 256") != std::string::npos)
            << ran.err;
      }
      const std::string flags = " -p abc -n 8 --temp 0 --ignore-eos";
      const Ran loaded = run_carousel("generate " + folder + " --weights " + type + flags);
      EXPECT_EQ(loaded.status, 0) << loaded.err;
      EXPECT_EQ(run_carousel("generate " + out + flags).out, loaded.out) << type;
      EXPECT_EQ(run_carousel("generate " + gguf + flags).out, loaded.out) << type;
      // The bytes do not depend on the threads, nor the types on the way.
      ASSERT_EQ(run_carousel(command + (scratch / "two") + " -t 2").status, 0);
      EXPECT_EQ(tensors_of(scratch / "two"), tensors_of(out)) << type;
      ASSERT_EQ(run_carousel("quantize " + gguf + " --type " + type + " --out " + (scratch / "way")).status, 0);
      EXPECT_EQ(types_of(scratch / "way"), types_of(out)) << type;
    }
  }
}

// The types that llama.cpp's tool writes for this model.
TEST(Quantize, AMixHasTheCommonToolsTypes) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kWideLlama);
  for (const auto& [mix, base, small] : {std::tuple{"q4_k_m", "Q4_K", "Q5_0"}, std::tuple{"q5_k_m", "Q5_K", "Q5_1"}}) {
    const std::string gguf = scratch / (std::string(mix) + ".gguf");
    ASSERT_EQ(run_carousel("quantize " + folder + " --type " + mix + " --out " + gguf).status, 0);
    std::map<std::string, std::string> types = types_of(gguf);
    EXPECT_EQ(types["token_embd.weight"], base);
    EXPECT_EQ(types["output.weight"], "Q6_K");
    EXPECT_EQ(types["blk.0.attn_q.weight"], base);
    EXPECT_EQ(types["blk.1.attn_v.weight"], base);
    EXPECT_EQ(types["blk.2.attn_v.weight"], "Q6_K");
    EXPECT_EQ(types["blk.3.attn_v.weight"], "Q6_K");
    EXPECT_EQ(types["blk.1.ffn_down.weight"], small);
    EXPECT_EQ(types["blk.2.ffn_down.weight"], "Q8_0");
    EXPECT_EQ(types["blk.0.attn_norm.weight"], "F32");
  }
}

TEST(Quantize, ReportsWhatATextLoses) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_file(scratch / "text", std::string(300, 'a') + "bc");
  const std::string start = "quantize " + folder + " --type q4 --head q8 --embeddings f16 --eval " + (scratch / "text");
  const Ran ran = run_carousel(start + " --json --out " + (scratch / "out"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json result = parse_json(ran.out, "quantize");
  EXPECT_LT(result.at("bytes_after").get<int64_t>(), result.at("bytes_before").get<int64_t>() / 2);
  const Json& eval = result.at("eval");
  EXPECT_GT(eval.at("tokens").get<int64_t>(), 300);
  const Ran after = run_carousel("eval " + (scratch / "out") + " --json --text " + (scratch / "text"));
  EXPECT_DOUBLE_EQ(parse_json(after.out, "eval").at("text").at("nats_per_token").get<double>(),
                   eval.at("nats_per_token_after").get<double>());
  EXPECT_NE(eval.at("nats_lost").get<double>(), 0);
  EXPECT_NE(run_carousel(start + " --out " + (scratch / "again")).out.find("nats per token"), std::string::npos);
}

TEST(Quantize, ACheckpointThatIsItsOwnConfig) {
  const Scratch scratch;
  const std::string checkpoint = CAROUSEL_SOURCE_DIR "/tests/fixtures/tirex/tiny.ckpt";
  const Ran ran = run_carousel("quantize " + checkpoint + " --type f16 --out " + (scratch / "out"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_TRUE(is_absent(scratch / "out/tiny.ckpt"));
  const Ran info = run_carousel("info " + (scratch / "out"));
  EXPECT_EQ(info.status, 0) << info.err;
}

TEST(Quantize, WhatTurnsNeedGoesAlong) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyLlama), out = scratch / "out";
  for (const char* name : {"chat_template.jinja", "tokenizer_config.json", "generation_config.json"}) {
    write_file(folder + "/" + name, "{}");
  }
  ASSERT_EQ(run_carousel("quantize " + folder + " --type q8 --out " + out).status, 0);
  for (const char* name : {"chat_template.jinja", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(read_file(out + "/" + name), "{}") << name;
  }
}

TEST(Quantize, NeverWritesOverWhatItReads) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed), file = scratch / "m.gguf", link = scratch / "link.gguf";
  ASSERT_EQ(run_carousel("convert " + folder + " --out " + file).status, 0);
  const std::string before = read_file(file);
  std::filesystem::create_symlink(file, link);
  for (const std::string& out : {file, link}) {
    for (const std::string& command : {"quantize " + file + " --type q8 --out ", "convert " + file + " --out "}) {
      const Ran ran = run_carousel(command + out);
      EXPECT_EQ(ran.status, 1) << ran.err;
      EXPECT_NE(ran.err.find("a file of the model that is read, expected another name"), std::string::npos) << ran.err;
    }
  }
  const Ran state = run_carousel("generate " + file + " -p a -n 1 --save-state " + file);
  EXPECT_EQ(state.status, 1);
  EXPECT_NE(state.err.find("exists and is no saved state"), std::string::npos) << state.err;
  EXPECT_EQ(read_file(file), before);
}

TEST(Quantize, AFileThatIsNotWhatItsNameSays) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed), file = scratch / "m.gguf", pipe = scratch / "p.gguf";
  std::filesystem::copy_file(folder + "/model.safetensors", file);
  const Ran named = run_carousel("info " + file);
  EXPECT_EQ(named.status, 1);
  EXPECT_NE(named.err.find("m.gguf: does not begin with \"GGUF\""), std::string::npos) << named.err;
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const Ran piped = run_carousel("info " + pipe);  // nobody writes to it: it must not be waited for
  EXPECT_EQ(piped.status, 1);
  EXPECT_NE(piped.err.find("not a regular file"), std::string::npos) << piped.err;
}

// A limit on the size of files is an error like a full disk, and nothing is left.
TEST(Quantize, StoppedHalfWayItTakesOnlyItsOwnFilesAway) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed), out = scratch / "out";
  {
    formats::NewFolder made(out);
    write_file(made.file("config.json"), "{}");
    write_file(out + "/notes.txt", "of somebody else");
  }
  EXPECT_FALSE(std::filesystem::exists(out + "/config.json"));
  EXPECT_TRUE(std::filesystem::exists(out + "/notes.txt"));
  const std::string command = "ulimit -f 8; " CAROUSEL_RUN_DIR "/carousel quantize " + folder + " --type q8 --out " +
                              (scratch / "limited") + " 2> " + (scratch / "err");
  const int status = std::system(command.c_str());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  const std::string err = read_file(scratch / "err");
  EXPECT_NE(err.find("cannot write: File too large"), std::string::npos) << err;
  EXPECT_FALSE(std::filesystem::exists(scratch / "limited"));
}

TEST(Quantize, BadOptionsAreNamed) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm), out = scratch / "out";
  const Ran type = run_carousel("quantize " + folder + " --type int8 --out " + out);
  EXPECT_EQ(type.status, 2);
  EXPECT_NE(type.err.find("--type: got \"int8\", expected one of f32, f16, bf16, q8, q4, q4_k, q5_k, q6_k, q4_k_m, "
                          "q5_k_m"),
            std::string::npos)
      << type.err;
  EXPECT_EQ(run_carousel("quantize " + folder + " --out " + out).status, 2) << "--type is required";
  EXPECT_EQ(run_carousel("quantize " + folder + " --type q8").status, 2) << "--out is required";
  for (const std::string& command : {"quantize " + folder + " --type q8", "convert " + folder}) {
    const Ran capitals = run_carousel(command + " --out " + out + ".GGUF");
    EXPECT_EQ(capitals.status, 2) << command;
    EXPECT_NE(capitals.err.find(".GGUF, expected an ending of .gguf"), std::string::npos) << capitals.err;
    EXPECT_TRUE(is_absent(out + ".GGUF"));
  }
  EXPECT_EQ(run_carousel("quantize " + folder + " --type q8 --out " + folder).status, 1) << "a full folder";
  const Ran text = run_carousel("quantize " + folder + " --type q8 --eval /no/such --out " + out);
  EXPECT_EQ(text.status, 1);
  EXPECT_TRUE(is_absent(out)) << "what would fail after the work is found before it";
  EXPECT_EQ(run_carousel("generate " + folder + " -p a -n 1 --weights q5").status, 2);
}

}  // namespace
}  // namespace carousel::cli
