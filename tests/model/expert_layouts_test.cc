// SPDX-License-Identifier: Apache-2.0
// The two layouts of LFM2-MoE files: matrices of every expert by themselves, and stacked. One model either way; what
// does not fit the config is refused by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
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

constexpr int64_t kExperts = 5, kWidth = 32, kHidden = 24;
constexpr const char* kConfig =
    R"({"model_type": "lfm2_moe", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_dense_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["full_attention", "conv"],
        "intermediate_size": 48, "moe_intermediate_size": 24, "num_experts": 5, "num_experts_per_tok": 2})";
const std::string kPrefix = "model.layers.1.feed_forward.";

class ExpertLayouts : public testing::Test {
 protected:
  ExpertLayouts() : stream_{&Memory::host(), cpu::best_isa(), &pool_} {
    fs::create_directories(folder_ / "config");
    std::ofstream(folder_ / "config/config.json") << kConfig;
  }

  NamedTensors published(DType dtype = DType::kF32) {
    const std::string out = (folder_ / ("published" + std::string(dtype_name(dtype)))).string();
    write_initialised((folder_ / "config/config.json").string(), 3, dtype, out);
    return formats::SafetensorsFile::open(out + "/model.safetensors").load_all();
  }
  std::string write(const std::string& name, const NamedTensors& tensors) {
    fs::create_directories(folder_ / name);
    std::ofstream(folder_ / name / "config.json") << kConfig;
    formats::write_safetensors((folder_ / name / "model.safetensors").string(), tensors);
    return (folder_ / name).string();
  }
  std::string refusal(const std::string& name, const NamedTensors& tensors) {
    try {
      load(write(name, tensors), stream_);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  std::vector<float> logits(const Model& model) {
    Runner runner(*model.lm, stream_);
    State state;
    const Tensor row = runner.logits(runner.prefill(std::vector<int32_t>{1, 7, 3, 39, 0, 12}, state));
    return {row.f32(), row.f32() + row.count()};
  }

  ThreadPool pool_{2};
  Stream stream_;
  const Scratch scratch_;
  const fs::path folder_ = scratch_.path();
};

Tensor find(const NamedTensors& tensors, const std::string& name) {
  for (const NamedTensor& named : tensors) {
    if (named.name == name) return named.tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

NamedTensors stacked(const NamedTensors& tensors, int64_t experts = kExperts, int64_t hidden = kHidden) {
  NamedTensors out;
  std::copy_if(tensors.begin(), tensors.end(), std::back_inserter(out),
               [](const NamedTensor& named) { return named.name.find(".experts.") == std::string::npos; });
  const Tensor gate_up({experts, 2 * hidden, kWidth}, DType::kF32), down({experts, kWidth, hidden}, DType::kF32);
  for (int64_t e = 0; e < kExperts && experts == kExperts && hidden == kHidden; ++e) {
    const std::string expert = kPrefix + "experts." + std::to_string(e);
    const auto put = [&](const char* file, float* to) {
      const Tensor values = find(tensors, expert + file);
      std::memcpy(to, values.raw(), values.size_bytes());
    };
    put(".w1.weight", gate_up.f32() + e * 2 * kHidden * kWidth);
    put(".w3.weight", gate_up.f32() + (e * 2 + 1) * kHidden * kWidth);
    put(".w2.weight", down.f32() + e * kWidth * kHidden);
  }
  out.push_back({kPrefix + "experts.gate_up_proj", gate_up});
  out.push_back({kPrefix + "experts.down_proj", down});
  return out;
}

TEST_F(ExpertLayouts, StackedEqualsPublished) {
  const NamedTensors tensors = published();
  const Model one = load(write("one", tensors), stream_), other = load(write("other", stacked(tensors)), stream_);
  EXPECT_EQ(logits(one), logits(other));
  EXPECT_EQ(one.fingerprint, other.fingerprint);  // so that states move between them
}

TEST_F(ExpertLayouts, WhatDoesNotFitIsRefusedByName) {
  NamedTensors tensors = published();
  EXPECT_NE(
      refusal("experts", stacked(tensors, 6)).find("experts.gate_up_proj\" is F32 [6, 48, 32], expected 5 slices"),
      std::string::npos);
  EXPECT_NE(refusal("narrow", stacked(tensors, 5, 20)).find("experts.down_proj\" is F32 [5, 32, 20]"),
            std::string::npos);
  EXPECT_NE(refusal("wide", stacked(tensors, 5, 32)).find("experts."), std::string::npos);
  NamedTensors flat = stacked(tensors);
  flat.back().tensor = flat.back().tensor.reshape({kExperts * kWidth, kHidden});
  EXPECT_NE(refusal("flat", flat).find("experts.down_proj\" is F32 [160, 24], expected 5 slices"), std::string::npos);
  const auto last = std::find_if(tensors.begin(), tensors.end(), [](const NamedTensor& named) {
    return named.name == kPrefix + "experts.4.w3.weight";
  });
  ASSERT_NE(last, tensors.end());
  tensors.erase(last);
  EXPECT_NE(refusal("missing", tensors)
                .find("\"" + kPrefix + "experts.4.w3.weight\" or \"" + kPrefix + "experts.gate_up_proj\" is missing"),
            std::string::npos);
}

TEST_F(ExpertLayouts, TheBiasStaysInF32) {
  const NamedTensors tensors = published(DType::kBF16);
  EXPECT_EQ(find(tensors, kPrefix + "expert_bias").dtype(), DType::kF32);
  EXPECT_EQ(find(tensors, kPrefix + "gate.weight").dtype(), DType::kBF16);
  EXPECT_EQ(load(write("bf16", tensors), stream_).lm->vocab_size(), 40);
}

}  // namespace
}  // namespace carousel::model
