// SPDX-License-Identifier: Apache-2.0
// Weights in other types than the file's: converted while loading or rewritten before, the bits are the same; parts
// keep the types they were given; what cannot be held is refused.
#include "carousel/model/quantise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/convert.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "tests/model/block_configs.h"
#include "tests/scratch.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4};

WeightTypes all_of(DType dtype) { return {dtype, dtype, dtype, dtype}; }

class Quantise : public testing::Test {
 protected:
  Quantise() : pool_(2), stream_{&Memory::host(), cpu::best_isa(), &pool_} {}

  std::string at(const std::string& name) const { return folder_ / name; }
  std::string init(const std::string& config, const std::string& name, DType dtype = DType::kF32) {
    std::ofstream(at(name + ".json")) << config;
    write_initialised(at(name + ".json"), 3, dtype, at(name));
    return at(name);
  }
  std::vector<float> logits(const std::string& path, const WeightTypes& types = {}) {
    const Model model = load(path, stream_, ModelKind::kLanguage, Numerics::native(), types);
    Runner runner(*model.lm, stream_);
    State state;
    const std::vector<int32_t> tokens{1, 7, 3, 39, 0, 12};
    const Tensor row = runner.logits(runner.prefill(tokens, state));
    return {row.f32(), row.f32() + row.count()};
  }
  std::string refusal(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }

  ThreadPool pool_;
  Stream stream_;
  const Scratch folder_;
};

double relative(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - double{b[i]}, 2);
    size += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / size);
}

TEST_F(Quantise, RewrittenEqualsConvertedWhileLoading) {
  for (const char* config : {kXlstm, kMixed}) {
    const std::string model = init(config, config == kXlstm ? "xlstm" : "mixed");
    const std::vector<float> exact = logits(model);
    for (const DType dtype : kTypes) {
      for (const WeightTypes& types : {all_of(dtype), WeightTypes{dtype, {}, {}, {}}}) {
        const std::string out = at("out");
        fs::remove_all(out);
        const QuantiseResult result = write_quantised(model, types, stream_, out);
        EXPECT_TRUE(result.kept.empty()) << result.kept.front();
        const std::vector<float> converted = logits(model, types);
        EXPECT_EQ(logits(out), converted) << dtype_name(dtype);
        if (!types.gates) {  // a random router, rounded, chooses other experts
          const double bound = dtype == DType::kQ4 ? 0.5 : dtype == DType::kQ8 ? 0.05 : 0.01;
          EXPECT_LT(relative(converted, exact), bound) << dtype_name(dtype);
        }
        if (dtype != DType::kF32) {
          EXPECT_NE(converted, exact);
          EXPECT_LT(result.bytes_after, result.bytes_before);
        }
      }
    }
  }
}

TEST_F(Quantise, PartsKeepTheTypesTheyWereGiven) {
  const std::string model = init(kXlstm, "model", DType::kBF16);
  const auto types_of = [&](const WeightTypes& types) {
    const std::string out = at("out");
    fs::remove_all(out);
    write_quantised(model, types, stream_, out);
    const formats::Checkpoint checkpoint = formats::Checkpoint::open(out);
    std::string text;
    for (const char* name : {"backbone.blocks.0.mlstm_layer.q.weight", "backbone.blocks.1.ffn.proj_down.weight",
                             "backbone.blocks.0.mlstm_layer.igate_preact.weight", "backbone.embeddings.weight",
                             "lm_head.weight", "backbone.out_norm.weight"}) {
      text += std::string(dtype_name(checkpoint.find(name)->dtype)) + " ";
    }
    return text;
  };
  EXPECT_EQ(types_of({}), "BF16 BF16 BF16 BF16 BF16 BF16 ");
  EXPECT_EQ(types_of({DType::kQ4, {}, {}, {}}), "Q4 Q4 BF16 BF16 BF16 BF16 ");
  EXPECT_EQ(types_of({DType::kQ4, DType::kQ8, DType::kF32, DType::kF16}), "Q4 Q4 F16 Q8 F32 BF16 ");
}

TEST_F(Quantise, ASharedTableIsTheHeads) {
  const WeightTypes types{DType::kQ4, DType::kF16, DType::kQ8, {}};
  const Init init;
  EXPECT_EQ(types.of("embeddings.weight", Weight::Layout::kRows, init), DType::kF16);
  EXPECT_EQ(types.of("embeddings.weight", Weight::Layout::kPanels, init), DType::kQ8);
  EXPECT_EQ((WeightTypes{DType::kQ4, DType::kF16, {}, {}}).of("embeddings.weight", Weight::Layout::kPanels, init),
            DType::kF16);
  EXPECT_EQ(types.of("layers.0.mlstm.igate.weight", Weight::Layout::kPanels, init.as_gate()), std::nullopt);
}

// Fused projections are rows of one tensor, in blocks too; gates fused with them leave it as it was, and say so.
TEST_F(Quantise, FusedTensors) {
  std::string fused = kXlstm;
  fused.insert(fused.size() - 1, R"(, "weight_mode": "fused")");
  const std::string single = init(kXlstm, "single"), model = init(fused, "fused");
  const WeightTypes types = all_of(DType::kQ8);
  EXPECT_TRUE(write_quantised(model, types, stream_, at("all")).kept.empty());
  EXPECT_EQ(logits(at("all")), logits(model, types));
  const QuantiseResult body = write_quantised(model, {DType::kQ8, {}, {}, {}}, stream_, at("body"));
  for (const std::string& kept : body.kept) EXPECT_NE(kept.find("different types"), std::string::npos) << kept;
  EXPECT_LT(relative(logits(at("body")), logits(model)), 0.03);
}

// Rows of 288 get blocks of 32 instead. Of matrices that stay, as one of those they are fused with has another type,
// that is not said too.
TEST_F(Quantise, WhatStaysIsNotSaidToGetAnotherType) {
  const std::string model = init(
      R"({"model_type": "xlstm", "vocab_size": 40, "hidden_size": 288, "embedding_dim": 288, "num_heads": 4,
          "num_blocks": 1, "num_hidden_layers": 1, "weight_mode": "fused"})",
      "fused");
  WeightTypes types{DType::kQ4K, {}, {}, {}};
  types.by_name["layers.0.mlstm.v.weight"] = DType::kQ6K;
  const std::vector<std::string> lines = write_quantised(model, types, stream_, at("out")).kept;
  int stay = 0, others = 0;
  for (const std::string& line : lines) {
    (line.find("different types") != std::string::npos ? stay : others) += 1;
    for (const char* fused : {"mlstm.q.", "mlstm.k.", "mlstm.v."}) {
      EXPECT_EQ(line.find(fused), std::string::npos) << line;
    }
  }
  EXPECT_EQ(stay, 1);
  EXPECT_EQ(others, 1);
}

TEST_F(Quantise, RowsThatAreNoWholeBlocksStay) {
  const std::string model = init(
      R"({"model_type": "carousel", "vocab_size": 40, "hidden_size": 48, "num_hidden_layers": 1, "norm_eps": 1e-6,
          "tie_word_embeddings": true, "layer_types": ["conv"], "ffn_config": {"intermediate_size": 64}})",
      "odd");
  const WeightTypes types = all_of(DType::kQ4);
  const QuantiseResult result = write_quantised(model, types, stream_, at("out"));
  ASSERT_FALSE(result.kept.empty());
  EXPECT_NE(result.kept[0].find("its rows of 48 are no whole blocks of 32"), std::string::npos) << result.kept[0];
  EXPECT_EQ(formats::Checkpoint::open(at("out")).find("layers.0.ffn.down.weight")->dtype, DType::kQ4);
  EXPECT_EQ(logits(model, types), logits(at("out")));
  // Who has them held so while loading is told once, who asks for nothing is not.
  const std::vector<std::string> warnings =
      load(model, stream_, ModelKind::kLanguage, Numerics::native(), types).warnings;
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("stays F32: its rows of 48 are no whole blocks of 32; so do others"), std::string::npos)
      << warnings[0];
  EXPECT_TRUE(load(model, stream_).warnings.empty());
}

TEST_F(Quantise, WhatATypeCannotHoldIsRefused) {
  const std::string model = init(kXlstm, "model");
  const std::string path = model + "/model.safetensors";
  NamedTensors tensors = formats::SafetensorsFile::open(path).load_all();
  for (const NamedTensor& named : tensors) {
    if (named.name == "backbone.blocks.0.mlstm_layer.q.weight") named.tensor.f32()[70] = -1e6f;
  }
  formats::write_safetensors(path, tensors);
  for (const DType dtype : {DType::kF16, DType::kQ4}) {
    const auto loads = [&] { load(model, stream_, ModelKind::kLanguage, Numerics::native(), all_of(dtype)); };
    const std::string message = refusal(loads);
    EXPECT_NE(message.find("q.weight"), std::string::npos) << message;
    EXPECT_NE(message.find("holds values beyond"), std::string::npos) << message;
    const auto writes = [&] { write_quantised(model, all_of(dtype), stream_, at("out")); };
    EXPECT_NE(refusal(writes).find("beyond what " + std::string(dtype_name(dtype)) + " can hold"), std::string::npos);
    EXPECT_FALSE(fs::exists(at("out"))) << "nothing is left behind";
    const auto type = [&](const ParamRecord&, const formats::TensorEntry&) { return formats::ggml_type_of(dtype); };
    const std::string gguf = refusal([&] { write_gguf(model, at("out.gguf"), stream_, type); });
    EXPECT_NE(gguf.find("q.weight\" holds a value that is not finite, or beyond what"), std::string::npos) << gguf;
    EXPECT_FALSE(fs::exists(at("out.gguf")));
  }
  EXPECT_EQ(refusal([&] { load(model, stream_, ModelKind::kLanguage, Numerics::native(), all_of(DType::kQ8)); }),
            "accepted");
}

TEST_F(Quantise, ConvertingRefusesWhatIsNotFinite) {
  const std::string model = init(kXlstm, "model");
  const std::string path = model + "/model.safetensors";
  NamedTensors tensors = formats::SafetensorsFile::open(path).load_all();
  tensors.back().tensor.f32()[0] = std::numeric_limits<float>::quiet_NaN();
  formats::write_safetensors(path, tensors);
  EXPECT_NE(refusal([&] { write_gguf(model, at("out.gguf"), stream_); }).find("not finite"), std::string::npos);
  EXPECT_NE(refusal([&] { write_folder(model, at("out"), stream_, DType::kF32); }).find("not finite"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(at("out"))) << "nothing is left behind";
}

TEST_F(Quantise, ABlockScaleThatIsNoNumberIsRefused) {
  const std::string model = init(kXlstm, "model");
  write_quantised(model, all_of(DType::kQ8), stream_, at("out"));
  const std::string path = at("out") + "/model.safetensors";
  NamedTensors tensors = formats::SafetensorsFile::open(path).load_all();
  for (const NamedTensor& named : tensors) {
    if (named.name == "lm_head.weight") std::memset(static_cast<char*>(named.tensor.raw()) + 34 * 3, 0xFF, 2);
  }
  formats::write_safetensors(path, tensors);
  const std::string message = refusal([&] { load(at("out"), stream_); });
  EXPECT_NE(
      message.find("\"lm_head.weight\" holds a value that is not finite (NaN or infinity), the first is element 96"),
      std::string::npos)
      << message;
}

TEST_F(Quantise, StoppedItLeavesNothing) {
  const std::string model = init(kXlstm, "model");
  int calls = 0;
  const auto stop = [&](double) { return ++calls < 3; };
  EXPECT_NE(refusal([&] { write_quantised(model, all_of(DType::kQ8), stream_, at("out"), stop); }).find("interrupted"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(at("out")));
  fs::create_directories(at("full"));
  std::ofstream(at("full/note.txt")) << "mine";
  EXPECT_NE(refusal([&] { write_quantised(model, all_of(DType::kQ8), stream_, at("full")); }).find("not an empty"),
            std::string::npos);
  EXPECT_TRUE(fs::exists(at("full/note.txt")));
}

}  // namespace
}  // namespace carousel::model
