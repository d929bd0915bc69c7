// SPDX-License-Identifier: Apache-2.0
// The 2024 xLSTM: every spelling of its config, published parameter counts, initial values, and the two layouts of
// recurrent matrices. Reference cases outside the repository are compared where they are at hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "tests/scratch.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

ModelConfig parse(const std::string& text) {
  return parse_config(parse_json(R"({"model_type": "xlstm_lm", )" + text + "}", "config.json"), "config.json");
}

int64_t parameters(const std::string& text) { return measure(parse(text), "config.json").parameters; }

std::string refusal(const std::string& text) {
  try {
    measure(parse(text), "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<std::string> blocks(const ModelConfig& config) {
  std::vector<std::string> names;
  for (const Sublayer& sublayer : config.sublayers) names.push_back(sublayer.block);
  return names;
}

constexpr const char* kSlstmHeads1 = R"("slstm_block": {"slstm": {"num_heads": 1}, "feedforward": {}})";
constexpr const char* kMlstmHeads1 = R"("mlstm_block": {"mlstm": {"num_heads": 1}})";

TEST(XlstmLmConfig, PublishedParameterCounts) {
  // arXiv:2405.04517, tables 3 and 7 (V = 50304), and the models of the package's experiments.
  const auto count = [](int64_t hidden, int64_t layers, const std::string& slstm_at) {
    return parameters(R"("vocab_size": 50304, "embedding_dim": )" + std::to_string(hidden) + R"(, "num_blocks": )" +
                      std::to_string(layers) + R"(, "slstm_at": )" + slstm_at +
                      R"(, "mlstm_block": {"mlstm": {}}, "slstm_block": {"slstm": {}, "feedforward": {}})");
  };
  EXPECT_EQ(count(768, 24, "[]"), 163806144);
  EXPECT_EQ(count(1024, 48, "[]"), 409290112);
  EXPECT_EQ(count(1536, 48, "[]"), 840427392);
  EXPECT_EQ(count(2048, 48, "[]"), 1422559616);
  EXPECT_EQ(count(2560, 64, "[]"), 2788396032);
  EXPECT_EQ(count(768, 24, "[3, 20]"), 163690928);
  EXPECT_EQ(count(1024, 48, "[3, 5, 7, 40, 42, 44]"), 408436048);
  EXPECT_EQ(count(1536, 48, "[3, 5, 7, 40, 42, 44]"), 839736144);
  EXPECT_EQ(count(2048, 48, "[3, 5, 7, 40, 42, 44]"), 1420065104);
  EXPECT_EQ(count(128, 7, "[1]"), 13642672);
  const std::string parity = R"("vocab_size": 3, "embedding_dim": 64, "num_blocks": )";
  EXPECT_EQ(parameters(parity + R"(2, "slstm_at": [1], )" + kMlstmHeads1 + ", " + kSlstmHeads1), 86402);
  EXPECT_EQ(parameters(parity + R"(2, "slstm_at": "all", )" + kSlstmHeads1), 116672);
  EXPECT_EQ(parameters(parity + "2, " + kMlstmHeads1), 56132);
}

TEST(XlstmLmConfig, SlstmAtIsAListAllOrNothing) {
  const std::string head = R"("vocab_size": 3, "embedding_dim": 64, "num_blocks": 3, )";
  const std::string both = std::string(kMlstmHeads1) + ", " + kSlstmHeads1;
  using Names = std::vector<std::string>;
  EXPECT_EQ(blocks(parse(head + both + R"(, "slstm_at": [1])")), (Names{"mlstm_v1", "slstm", "swiglu", "mlstm_v1"}));
  EXPECT_EQ(blocks(parse(head + both + R"(, "slstm_at": "all")")),
            (Names{"slstm", "swiglu", "slstm", "swiglu", "slstm", "swiglu"}));
  EXPECT_EQ(blocks(parse(head + both + R"(, "slstm_at": [])")), (Names{"mlstm_v1", "mlstm_v1", "mlstm_v1"}));
  EXPECT_EQ(blocks(parse(head + R"("mlstm_block": {}, "slstm_block": null)")),
            (Names{"mlstm_v1", "mlstm_v1", "mlstm_v1"}));
  EXPECT_EQ(blocks(parse(head + R"("slstm_block": {"feedforward": null})")), (Names{"slstm", "slstm", "slstm"}));
  EXPECT_EQ(blocks(parse(head + R"("slstm_block": {})")),
            (Names{"slstm", "swiglu", "slstm", "swiglu", "slstm", "swiglu"}));
}

TEST(XlstmLmConfig, WidthsRoundUpOrDown) {
  const auto widths = [](int64_t hidden, const char* round) {
    const ModelConfig config =
        parse(R"("vocab_size": 3, "num_blocks": 1, "slstm_at": "all", "embedding_dim": )" + std::to_string(hidden) +
              R"(, "slstm_block": {"feedforward": {"round_proj_up_dim_up": )" + round + "}}");
    return config.sublayers[1].options["intermediate_size"].get<int64_t>();
  };
  EXPECT_EQ(widths(64, "true"), 128);
  EXPECT_EQ(widths(256, "true"), 384);
  EXPECT_EQ(widths(768, "true"), 1024);
  EXPECT_EQ(widths(2048, "true"), 2688);
  EXPECT_EQ(widths(256, "false"), 320);
}

TEST(XlstmLmConfig, WhatChangesTheResultAndIsNotSupportedIsRefused) {
  const std::string head = R"("vocab_size": 3, "embedding_dim": 64, "num_blocks": 2, )";
  const auto refuses = [&](const std::string& text, const std::string& what) {
    EXPECT_NE(refusal(head + text).find(what), std::string::npos) << refusal(head + text);
  };
  refuses(R"("mlstm_block": {}, "slstm_at": [2])", "slstm_at");
  refuses(R"("mlstm_block": {}, "slstm_at": [1])", "slstm_block");
  refuses(R"("mlstm_block": {}, "slstm_at": "none")", "expected one of: all");
  refuses(R"("slstm_block": {"slstm": {"function": "lstm"}})", "expected one of: slstm");
  refuses(R"("slstm_block": {"slstm": {"forward_clipval": 2}})", "forward_clipval");
  refuses(R"("slstm_block": {"slstm": {"num_heads": 3}})", "does not divide");
  refuses(R"("slstm_block": {"slstm": {"heads": 4}})", "unknown key \"heads\"");
  refuses(R"("slstm_block": {"feedforward": {"act_fn": "mish"}})", "act_fn");
  refuses(R"("mlstm_block": {"mlstm": {"qkv_proj_blocksize": 5}})", "does not divide");
  refuses(R"("mlstm_block": {"mlstm": {"num_heads": 3}})", "does not divide");
  refuses(R"("mlstm_block": {"mlstm": {"proj_factor": 0}})", "up-projection");
}

class XlstmLm : public testing::Test {
 protected:
  XlstmLm() : pool_(2), stream_{&Memory::host(), cpu::best_isa(), &pool_} {}

  std::string init(const std::string& text, const std::string& name) {
    fs::create_directories(folder_ / (name + "-config"));
    const fs::path config = folder_ / (name + "-config") / "config.json";
    std::ofstream(config) << R"({"model_type": "xlstm_lm", )" << text << "}";
    const std::string out = (folder_ / name).string();
    write_initialised(config.string(), 3, DType::kF32, out);
    return out;
  }
  NamedTensors tensors(const std::string& model) {
    return formats::SafetensorsFile::open(model + "/model.safetensors").load_all();
  }
  // A copy of a model with other tensors.
  std::string copy(const std::string& model, const std::string& name, const NamedTensors& tensors) {
    const std::string out = (folder_ / name).string();
    fs::create_directories(out);
    fs::copy_file(model + "/config.json", out + "/config.json");
    formats::write_safetensors(out + "/model.safetensors", tensors);
    return out;
  }
  // [rows, V] of `tokens` in pieces.
  std::vector<float> logits(const Model& model, const std::vector<int32_t>& tokens, size_t piece) {
    Runner runner(*model.lm, stream_);
    State state;
    State* const states[] = {&state};
    std::vector<float> out;
    for (size_t t = 0; t < tokens.size(); t += piece) {
      const std::vector<int32_t> part(tokens.begin() + static_cast<int64_t>(t),
                                      tokens.begin() + static_cast<int64_t>(std::min(tokens.size(), t + piece)));
      const int64_t lengths[] = {static_cast<int64_t>(part.size())};
      const Tensor rows = runner.logits(runner.forward(part, states, lengths));
      out.insert(out.end(), rows.f32(), rows.f32() + rows.count());
    }
    return out;
  }

  ThreadPool pool_;
  Stream stream_;
  const Scratch scratch_;
  const fs::path folder_ = scratch_.path();
};

double relative(const std::vector<float>& got, const float* expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(error / norm);
}

// One head is one block and one context of two: everything that may be left out left out, and sequences that are
// longer than the context the config names.
TEST_F(XlstmLm, EveryShapeRunsInAnyCut) {
  const std::string head = R"("vocab_size": 11, "embedding_dim": 64, "num_blocks": 2, "context_length": 8, )";
  const char* const shapes[] = {
      R"("mlstm_block": {"mlstm": {"conv1d_kernel_size": 0, "qkv_proj_blocksize": 1, "num_heads": 1}})",
      R"("mlstm_block": {"mlstm": {"qkv_proj_blocksize": 128, "proj_factor": 1.5}}, "bias": true)",
      R"("mlstm_block": {"mlstm": {"proj_factor": 1.5, "round_proj_up_dim_up": false, "qkv_proj_blocksize": 32}})",
      R"("slstm_block": {"slstm": {"conv1d_kernel_size": 0, "num_heads": 64}, "feedforward": null})",
      R"("slstm_block": {"slstm": {"group_norm_weight": false, "num_heads": 1, "recurrent_weight_init": "standard"},
         "feedforward": {"act_fn": "relu^2", "bias": true}}, "add_post_blocks_norm": false, "tie_weights": true)",
      R"("mlstm_block": {}, "slstm_block": {"slstm": {"bias_init": "small_init"}}, "slstm_at": [1])"};
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 100; ++i) tokens.push_back(i * i % 11);
  for (size_t i = 0; i < std::size(shapes); ++i) {
    const Model model = load(init(head + shapes[i], std::to_string(i)), stream_);
    const std::vector<float> whole = logits(model, tokens, tokens.size());
    for (const size_t piece : {size_t{1}, size_t{7}}) {
      EXPECT_LT(relative(logits(model, tokens, piece), whole.data()), 2e-5) << shapes[i] << " by " << piece;
    }
  }
}

constexpr const char* kMixed = R"("vocab_size": 11, "embedding_dim": 32, "num_blocks": 3, "slstm_at": [0, 2],
    "mlstm_block": {"mlstm": {"round_proj_up_to_multiple_of": 8}}, "slstm_block": {"slstm": {"num_heads": 2,
    "recurrent_weight_init": "standard", "backend": )";

// The two layouts of one checkpoint hold the same model: same logits and fingerprint, so that states move between them.
TEST_F(XlstmLm, BothLayoutsOfRecurrentMatricesAreTheSameModel) {
  const std::string cuda = init(std::string(kMixed) + R"("cuda"}})", "cuda");
  const std::string vanilla = init(std::string(kMixed) + R"("vanilla"}})", "vanilla");
  const std::vector<int32_t> tokens = {1, 2, 3, 10, 0, 4, 4, 4};
  const Model a = load(cuda, stream_), b = load(vanilla, stream_);
  EXPECT_EQ(logits(a, tokens, 3), logits(b, tokens, 3));
  EXPECT_EQ(a.fingerprint, b.fingerprint);

  // Element by element, and the shapes decide, whatever the config says; the LM's prefix may be missing.
  NamedTensors renamed;
  const NamedTensors from = tensors(cuda), to = tensors(vanilla);
  constexpr int64_t kHeads = 2, kWidth = 16;
  for (size_t i = 0; i < from.size(); ++i) {
    const std::string prefix = "xlstm_block_stack.";
    const std::string& name = from[i].name;
    renamed.push_back({name.starts_with(prefix) ? name.substr(prefix.size()) : name, from[i].tensor});
    const auto other = std::find_if(to.begin(), to.end(), [&](const NamedTensor& t) { return t.name == name; });
    ASSERT_NE(other, to.end()) << name;
    const float* x = from[i].tensor.f32();
    const float* y = other->tensor.f32();
    if (name.ends_with("_recurrent_kernel_")) {
      ASSERT_EQ(from[i].tensor.shape(), (Shape{kHeads, kWidth, 4 * kWidth}));
      ASSERT_EQ(other->tensor.shape(), (Shape{kHeads, 4 * kWidth, kWidth}));
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t in = 0; in < kWidth; ++in) {
          for (int64_t out = 0; out < 4 * kWidth; ++out) {
            ASSERT_EQ(x[(h * kWidth + in) * 4 * kWidth + out], y[(h * 4 * kWidth + out) * kWidth + in]);
          }
        }
      }
    }
    if (name.ends_with("_bias_")) {
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t g = 0; g < 4; ++g) {
          for (int64_t j = 0; j < kWidth; ++j) {
            ASSERT_EQ(x[(h * 4 + g) * kWidth + j], y[(g * kHeads + h) * kWidth + j]);
          }
        }
      }
    }
  }
  EXPECT_EQ(logits(load(copy(vanilla, "swapped", renamed), stream_), tokens, 3), logits(a, tokens, 3));
}

// The initial values of the package: forget biases from 5 to -7 in each head by a power law that depends on the block.
TEST_F(XlstmLm, InitialValuesAreThePackages) {
  const std::string model = init(R"("vocab_size": 11, "embedding_dim": 8, "num_blocks": 2, "slstm_at": "all",
      "slstm_block": {"slstm": {"num_heads": 2, "backend": "vanilla"}})",
                                 "slstm");
  const double first[] = {5, -3.6306771, -5.6256099, -7}, last[] = {5, 2.9308726, -1.2724215, -7};
  int biases = 0;
  for (const NamedTensor& named : tensors(model)) {
    const float* x = named.tensor.f32();
    if (named.name.ends_with("norm.weight") || named.name.ends_with("_recurrent_kernel_")) {
      EXPECT_TRUE(std::all_of(x, x + named.tensor.count(), [](float v) { return v == 0; })) << named.name;
    }
    if (!named.name.ends_with("_bias_")) continue;
    ++biases;
    for (int64_t i = 0; i < 32; ++i) {
      const double* forget = named.name.find("blocks.0.") != std::string::npos ? first : last;
      EXPECT_NEAR(x[i], i / 8 == 1 ? forget[i % 4] : 0, 1e-6) << named.name << " " << i;
    }
  }
  EXPECT_EQ(biases, 2);

  const std::string mlstm = init(R"("vocab_size": 11, "embedding_dim": 64, "num_blocks": 1,
      "mlstm_block": {"mlstm": {"num_heads": 4}})",
                                 "mlstm");
  for (const NamedTensor& named : tensors(mlstm)) {
    const float* x = named.tensor.f32();
    const int64_t count = named.tensor.count();
    double square = 0;
    for (int64_t i = 0; i < count; ++i) square += double{x[i]} * double{x[i]} / static_cast<double>(count);
    const double deviation = std::sqrt(square);
    if (named.name.ends_with("fgate.bias")) {
      for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(x[i], 3 + static_cast<double>(i), 1e-6);
    } else if (named.name.ends_with("gate.weight")) {
      EXPECT_EQ(deviation, 0) << named.name;
    } else if (named.name.ends_with("learnable_skip")) {
      EXPECT_TRUE(std::all_of(x, x + count, [](float v) { return v == 1; }));
    } else if (named.name.ends_with("q_proj.weight") || named.name.ends_with("proj_up.weight")) {
      EXPECT_NEAR(deviation, std::sqrt(2.0 / (5 * 64)), 0.01) << named.name;  // 512 draws: 3% of 0.079
    } else if (named.name.ends_with("proj_down.weight")) {
      EXPECT_NEAR(deviation, 2.0 / std::sqrt(64.0), 0.01) << named.name;
    }
  }
}

// The cases made with the package itself, where they are beside the repository.
TEST_F(XlstmLm, ReferenceCasesAgree) {
  const std::string shared = CAROUSEL_SOURCE_DIR "/../shared/golden/xlstm-lm-";
  if (!fs::exists(shared + "mixed")) GTEST_SKIP() << "no reference cases at hand";
  for (const char* name : {"bias", "mixed", "mlstm-only", "slstm-only"}) {
    const Model model = load(shared + name, stream_);
    const formats::SafetensorsFile expected = formats::SafetensorsFile::open(shared + name + "/expected.safetensors");
    const Tensor ids = expected.find("ids")->load(), truth = expected.find("logits")->load();
    const int64_t length = ids.dim(1);
    for (int64_t row = 0; row < ids.dim(0); ++row) {
      std::vector<int32_t> tokens;
      for (int64_t t = 0; t < length; ++t) tokens.push_back(static_cast<int32_t>(ids.i64()[row * length + t]));
      for (const size_t piece : {size_t{1}, size_t{5}, size_t{1000}}) {
        // Seen: below 2e-6. Another formula is off by 1e-3.
        EXPECT_LT(relative(logits(model, tokens, piece), truth.f32() + row * length * truth.dim(2)), 2e-5) << name;
      }
    }
  }
}

// The package's own config.yaml names no model_type: the keys tell which of its two models it is.
TEST_F(XlstmLm, YamlConfigsLoad) {
  const std::string lm = init(R"("vocab_size": 11, "embedding_dim": 32, "num_blocks": 2, "slstm_at": [1],
      "mlstm_block": {}, "slstm_block": {"feedforward": {"act_fn": "relu"}})",
                              "lm");
  const std::vector<int32_t> tokens = {1, 2, 3, 10, 0};
  const std::vector<float> expected = logits(load(lm, stream_), tokens, 5);
  fs::remove(lm + "/config.json");
  std::ofstream(lm + "/config.yaml") << "vocab_size: 11\nembedding_dim: 32\nnum_blocks: 2\nslstm_at: [1]  # the last\n"
                                        "mlstm_block: {}\nslstm_block:\n  feedforward:\n    act_fn: relu\n";
  EXPECT_EQ(logits(load(lm, stream_), tokens, 5), expected);
  EXPECT_EQ(resolve(lm).config, lm + "/config.yaml");

  std::ofstream(folder_ / "large.yaml") << "embedding_dim: 32\nnum_heads: 2\nnum_blocks: 1\nvocab_size: 11\n"
                                           "return_last_states: true\nmode: inference\n";
  const std::string out = (folder_ / "large").string();
  write_initialised((folder_ / "large.yaml").string(), 1, DType::kF32, out);
  EXPECT_EQ(load(out, stream_).config.model_type, "xlstm");
}

}  // namespace
}  // namespace carousel::model
