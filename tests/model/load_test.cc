// SPDX-License-Identifier: Apache-2.0
// Loading: what is refused and how it is said; initialised models; layouts of one checkpoint that must agree.
#include "carousel/model/load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/runner.h"
#include "tests/scratch.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

constexpr const char* kXlstm =
    R"({"model_type": "xlstm", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2,
        "ffn_proj_factor": 1.5, "ffn_round_up_to_multiple_of": 16, "eos_token_id": 2})";

class Load : public testing::Test {
 protected:
  Load() : pool_(2), stream_{&Memory::host(), cpu::best_isa(), &pool_} {}

  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  // An initialised model of `config` in a folder of its own.
  std::string init(const std::string& config, const std::string& name = "model", DType dtype = DType::kF32) {
    write(name + ".json", config);
    fs::create_directories(folder_ / (name + "-config"));
    write(name + "-config/config.json", config);
    const std::string out = (folder_ / name).string();
    write_initialised((folder_ / (name + "-config") / "config.json").string(), 3, dtype, out);
    return out;
  }

  NamedTensors tensors(const std::string& model) {
    return formats::SafetensorsFile::open(model + "/model.safetensors").load_all();
  }
  void rewrite(const std::string& model, const NamedTensors& tensors) {
    fs::remove(model + "/model.safetensors");
    formats::write_safetensors(model + "/model.safetensors", tensors);
  }

  std::string refusal(const std::string& path) {
    try {
      load(path, stream_);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }

  std::vector<float> logits(const Model& model) {
    Runner runner(*model.lm, stream_);
    State state;
    const std::vector<int32_t> tokens{1, 7, 3, 39, 0, 12};
    const Tensor row = runner.logits(runner.prefill(tokens, state));
    return {row.f32(), row.f32() + row.count()};
  }

  ThreadPool pool_;
  Stream stream_;
  const Scratch scratch_;
  const fs::path folder_ = scratch_.path();
};

Tensor& find(NamedTensors& tensors, const std::string& name) {
  for (NamedTensor& named : tensors) {
    if (named.name == name) return named.tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

TEST_F(Load, InitialisedModelsRunInEveryDtypeAndFromTheFileAlone) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const std::string model = init(kXlstm, "m" + std::string(dtype_name(dtype)), dtype);
    const std::vector<float> from_folder = logits(load(model, stream_));
    EXPECT_EQ(from_folder, logits(load(model + "/model.safetensors", stream_)));
    for (const float value : from_folder) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST_F(Load, SeedsGiveTheSameModelAndOtherSeedsOthers) {
  const std::string a = init(kXlstm, "a");
  const std::string b = init(kXlstm, "b");
  EXPECT_EQ(load(a, stream_).fingerprint, load(b, stream_).fingerprint);
  write_initialised(a + "-config/config.json", 4, DType::kF32, (folder_ / "c").string());
  EXPECT_NE(load(a, stream_).fingerprint, load((folder_ / "c").string(), stream_).fingerprint);
}

// Fused and single hold the same rows: same logits, same fingerprint, so that states move between them.
TEST_F(Load, FusedEqualsSingle) {
  const std::string single = init(kXlstm, "single");
  std::string text = kXlstm;
  text.insert(1, R"("weight_mode": "fused", )");
  const std::string fused = init(text, "fused");
  const NamedTensors stored = tensors(fused);
  EXPECT_TRUE(std::any_of(stored.begin(), stored.end(), [](const NamedTensor& t) {
    return t.name == "backbone.blocks.1.mlstm_layer.qkv_opreact.weight" && t.tensor.shape() == Shape{96, 32};
  }));
  const Model a = load(single, stream_);
  const Model b = load(fused, stream_);
  EXPECT_EQ(logits(a), logits(b));
  EXPECT_EQ(a.fingerprint, b.fingerprint);
}

TEST_F(Load, PackageNamesLoad) {
  const std::string model = init(kXlstm);
  NamedTensors renamed = tensors(model);
  const std::vector<float> expected = logits(load(model, stream_));
  for (NamedTensor& named : renamed) {
    if (named.name == "backbone.embeddings.weight") named.name = "embedding.weight";
  }
  rewrite(model, renamed);
  EXPECT_EQ(logits(load(model, stream_)), expected);
}

TEST_F(Load, MissingExtraAndMisshapedTensorsAreNamed) {
  const std::string model = init(kXlstm);
  const NamedTensors whole = tensors(model);
  const std::string file = model + ": ";

  NamedTensors changed = whole;
  std::erase_if(changed, [](const NamedTensor& t) { return t.name == "backbone.blocks.1.mlstm_layer.q.weight"; });
  rewrite(model, changed);
  EXPECT_EQ(refusal(model), file +
                                "tensor \"backbone.blocks.1.mlstm_layer.q.weight\" or "
                                "\"backbone.blocks.1.mlstm_layer.qkv_opreact.weight\" is missing (parameter "
                                "layers.1.mlstm.q.weight)");

  changed = whole;
  changed.push_back({"backbone.blocks.2.norm_ffn.weight", Tensor(Shape{32}, DType::kF32)});
  rewrite(model, changed);
  EXPECT_EQ(refusal(model),
            file + "tensor \"backbone.blocks.2.norm_ffn.weight\" [32] belongs to no parameter of this config");

  changed = whole;
  find(changed, "backbone.blocks.0.ffn.proj_down.weight") = Tensor(Shape{48, 32}, DType::kF32);
  rewrite(model, changed);
  EXPECT_EQ(refusal(model), file + "\"backbone.blocks.0.ffn.proj_down.weight\" is F32 [48, 32], expected [32, 48]");

  changed = whole;
  find(changed, "lm_head.weight") = Tensor(Shape{40, 32}, DType::kI64);
  rewrite(model, changed);
  EXPECT_EQ(refusal(model),
            file + "\"lm_head.weight\" is I64 [40, 32], expected dtype F32, F16 or BF16 and shape [40, 32]");
}

TEST_F(Load, ValuesThatAreNotFiniteAreReported) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const std::string model = init(kXlstm, "n" + std::string(dtype_name(dtype)), dtype);
    NamedTensors changed = tensors(model);
    Tensor& matrix = find(changed, "backbone.blocks.0.mlstm_layer.v.weight");
    const float nan = std::numeric_limits<float>::quiet_NaN();
    narrow(&nan, dtype, static_cast<std::byte*>(matrix.raw()) + 5 * dtype_size(dtype), 1);
    rewrite(model, changed);
    EXPECT_EQ(refusal(model), model +
                                  ": \"backbone.blocks.0.mlstm_layer.v.weight\" holds a value that is not finite "
                                  "(NaN or infinity), the first is element 5 of layers.0.mlstm.v.weight");
  }
}

// The reference multiplies by a circuit's mask: a value that only counts as "not 0" here would change the result.
TEST_F(Load, MasksOfCircuitsHoldZerosAndOnes) {
  const auto loads = [&](const std::string& model) -> std::string {
    try {
      load(model, stream_, ModelKind::kRegressor);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  const std::string wiring = R"("input_size": 2, "wiring": {"type": "AutoNCP", "units": 12, "output_size": 3}})";
  for (const auto& [type, mask] :
       {std::pair{"cfc", "rnn_cell.layer_0.sparsity_mask"}, std::pair{"ltc", "rnn_cell.sparsity_mask"},
        std::pair{"ltc", "rnn_cell.sensory_sparsity_mask"}}) {
    const std::string model = init(R"({"model_type": ")" + std::string(type) + R"(", )" + wiring, mask);
    EXPECT_EQ(loads(model), "accepted");
    for (const auto& [value, text] : {std::pair{0.5f, "0.5"}, std::pair{2.0f, "2"}, std::pair{-1.0f, "-1"}}) {
      NamedTensors changed = tensors(model);
      find(changed, mask).f32()[3] = value;
      rewrite(model, changed);
      const std::string said = std::string("\"") + mask + "\": element 3 is " + text + ", expected 0 or 1";
      EXPECT_NE(loads(model).find(said), std::string::npos) << loads(model);
    }
  }
}

TEST_F(Load, FusedTensorsOfTheWrongHeightAreRefused) {
  std::string text = kXlstm;
  text.insert(1, R"("weight_mode": "fused", )");
  const std::string model = init(text);
  for (const int64_t rows : {95, 97}) {
    NamedTensors changed = tensors(model);
    find(changed, "backbone.blocks.0.mlstm_layer.qkv_opreact.weight") = Tensor(Shape{rows, 32}, DType::kF32);
    rewrite(model, changed);
    EXPECT_NE(refusal(model).find("\"backbone.blocks.0.mlstm_layer.qkv_opreact.weight\" is"), std::string::npos)
        << rows;
  }
}

// transformers ties a head that the file holds too only where it is the embeddings.
TEST_F(Load, ATiedFileMayHoldAHeadWhichIsUsedWhereItDiffers) {
  std::string text = kXlstm;
  text.insert(1, R"("tie_word_embeddings": true, "output_logit_soft_cap": null, )");
  const std::string model = init(text);
  NamedTensors changed = tensors(model);
  const std::vector<float> expected = logits(load(model, stream_));
  changed.push_back({"lm_head.weight", find(changed, "backbone.embeddings.weight").clone()});
  rewrite(model, changed);
  const Model same = load(model, stream_);
  EXPECT_EQ(logits(same), expected);
  EXPECT_EQ(same.warnings, (std::vector<std::string>{model + ": \"lm_head.weight\" has no effect with this config"}));

  Tensor& head = find(changed, "lm_head.weight");
  for (int64_t i = 0; i < head.count(); ++i) head.f32()[i] *= 2;  // an exact double of each logit
  rewrite(model, changed);
  const Model other = load(model, stream_);
  std::vector<float> doubled = expected;
  for (float& logit : doubled) logit *= 2;
  EXPECT_EQ(logits(other), doubled);
  ASSERT_EQ(other.warnings.size(), 1u);
  EXPECT_NE(other.warnings[0].find("\"lm_head.weight\" differs from \"backbone.embeddings.weight\""),
            std::string::npos);
  EXPECT_FALSE(other.config.tie_word_embeddings);
  EXPECT_EQ(other.config.source.at("tie_word_embeddings"), false);
}

TEST_F(Load, AnEndTokenOutsideTheVocabularyIsReported) {
  std::string text = kXlstm;
  text.replace(text.find("\"eos_token_id\": 2"), 17, "\"eos_token_id\": 99");
  const Model model = load(init(text), stream_);
  EXPECT_TRUE(model.end_tokens.empty());
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_NE(model.warnings[0].find("eos_token_id 99 is outside the vocabulary of 40"), std::string::npos);
}

TEST_F(Load, MoreThanTheMemoryIsRefusedBeforeItIsTaken) {
  EXPECT_NO_THROW(check_memory(1 << 20, "m"));
  EXPECT_THROW(check_memory(SIZE_MAX - 1, "m"), Error);
}

TEST_F(Load, AnInterruptedInitLeavesNothing) {
  const std::string config = init(kXlstm) + "/config.json";
  const std::string out = (folder_ / "stopped").string();
  EXPECT_THROW(write_initialised(config, 1, DType::kF32, out, [](double done) { return done < 0.5; }), Error);
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Load, PathsThatAreNoModelSaySo) {
  EXPECT_EQ(refusal((folder_ / "none").string()), (folder_ / "none").string() + ": no such file or folder");
  fs::create_directories(folder_ / "empty");
  EXPECT_EQ(refusal((folder_ / "empty").string()), (folder_ / "empty").string() + ": config.json is missing");
  write("notes.txt", "hello");
  EXPECT_NE(refusal((folder_ / "notes.txt").string()).find("expected a model folder"), std::string::npos);
  fs::create_directories(folder_ / "bare");
  write("bare/config.json", kXlstm);
  EXPECT_NE(refusal((folder_ / "bare").string()).find("no weights"), std::string::npos);
  EXPECT_NE(refusal((folder_ / "bare/config.json").string()).find("a config alone"), std::string::npos);
  write("bare/config.json", "{\"model_type\": ");
  EXPECT_NE(refusal((folder_ / "bare").string()), "accepted");
}

TEST_F(Load, WithoutATokenizerTheVocabularyOfBytesWorksAndOthersSayWhatIsMissing) {
  const Model forty = load(init(kXlstm), stream_);
  EXPECT_THROW(forty.text(), Error);
  EXPECT_EQ(forty.end_tokens, (std::vector<int32_t>{2}));
  std::string text = kXlstm;
  text.replace(text.find("40"), 2, "256");
  const Model bytes = load(init(text, "bytes"), stream_);
  EXPECT_EQ(bytes.text().encode("a"), (std::vector<int32_t>{'a'}));
}

TEST_F(Load, InitRefusesToOverwrite) {
  const std::string model = init(kXlstm);
  EXPECT_THROW(write_initialised(model + "/config.json", 1, DType::kF32, model), Error);
  EXPECT_EQ(refusal(model), "accepted");
}

TEST_F(Load, InitialisationsAreThePapers) {
  const NamedTensors values = tensors(init(kXlstm));
  for (const NamedTensor& named : values) {
    const Tensor& t = named.tensor;
    double square = 0;
    for (int64_t i = 0; i < t.count(); ++i) square += std::pow(t.f32()[i], 2);
    const double deviation = std::sqrt(square / static_cast<double>(t.count()));
    if (named.name.ends_with("igate_preact.bias")) {
      EXPECT_EQ(t.f32()[1], -10);
    }
    if (named.name.ends_with("fgate_preact.bias")) {
      EXPECT_EQ(t.f32()[0], 3);
      EXPECT_EQ(t.f32()[1], 6);
    }
    // 1024 draws: the deviation is known to 2.2 %, four times that is allowed.
    if (named.name.ends_with("mlstm_layer.v.weight")) {
      EXPECT_NEAR(deviation, std::sqrt(2.0 / (5 * 32)), 0.09 * 0.112);
    }
    if (named.name.ends_with("mlstm_layer.out_proj.weight")) {
      EXPECT_NEAR(deviation, 2.0 / 2 / std::sqrt(32.0), 0.09 * 0.177);
    }
    if (named.name.ends_with("ogate_preact.weight")) {
      EXPECT_EQ(deviation, 0);
    }
  }
}

}  // namespace
}  // namespace carousel::model
