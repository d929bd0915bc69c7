// SPDX-License-Identifier: Apache-2.0
// Which matrices a mix gives more bits: against what llama.cpp's tool writes for models of these shapes.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

#include "carousel/model/load.h"
#include "carousel/model/params.h"
#include "tests/scratch.h"

namespace carousel::model {
namespace {

class Mixes : public testing::Test {
 protected:
  WeightTypes types_for(const std::string& config, DType base, WeightTypes types = {}) {
    const std::string path = folder_ / "config.json";
    std::ofstream(path) << config;
    config_ = read_model_config(resolve(path), nullptr);
    types.body = base;
    types.mixed = true;
    return with_mix(types, config_, path);
  }
  // The layers whose matrix, the part of its name after the layer, has this type.
  static std::set<int64_t> layers_with(const WeightTypes& types, const std::string& part, DType dtype) {
    std::set<int64_t> layers;
    for (const auto& [name, given] : types.by_name) {
      const LayerName place = split_layer(name);
      if (place.rest == part && given == dtype) layers.insert(place.layer);
    }
    return layers;
  }

  const Scratch folder_;
  ModelConfig config_;
};

using Layers = std::set<int64_t>;

std::string llama(int layers, const std::string& more = "") {
  return R"({"model_type": "llama", "vocab_size": 64, "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": )" +
         std::to_string(layers) + more + "}";
}

TEST_F(Mixes, LayersOfALlama) {
  for (const DType base : {DType::kQ4K, DType::kQ5K}) {
    const WeightTypes types = types_for(llama(32), base);
    const Layers more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31};
    EXPECT_EQ(layers_with(types, "full_attention.v_proj.weight", DType::kQ6K), more);
    EXPECT_EQ(layers_with(types, "ffn.down.weight", DType::kQ6K), more);
    EXPECT_EQ(layers_with(types, "full_attention.v_proj.weight", base).size(), 16u);
    for (const char* part : {"full_attention.q_proj.weight", "full_attention.k_proj.weight",
                             "full_attention.out_proj.weight", "ffn.gate.weight", "ffn.up.weight"}) {
      EXPECT_EQ(layers_with(types, part, base).size(), 32u) << part;
    }
    EXPECT_EQ(types.by_name.at("lm_head.weight"), DType::kQ6K);
    EXPECT_EQ(types.by_name.at("embeddings.weight"), base);
  }
  EXPECT_EQ(layers_with(types_for(llama(6), DType::kQ4K), "ffn.down.weight", DType::kQ6K), (Layers{2, 5}));
}

TEST_F(Mixes, EightyLayersWithFewValues) {
  const std::string part = "full_attention.v_proj.weight";
  WeightTypes types = types_for(llama(80), DType::kQ4K);
  EXPECT_EQ(layers_with(types, part, DType::kQ4K), Layers{});
  EXPECT_EQ(layers_with(types, part, DType::kQ5K).size() + layers_with(types, part, DType::kQ6K).size(), 80u);
  EXPECT_EQ(layers_with(types, "full_attention.k_proj.weight", DType::kQ4K).size(), 80u);
  types = types_for(llama(79), DType::kQ4K);
  EXPECT_EQ(layers_with(types, part, DType::kQ5K), Layers{});
}

TEST_F(Mixes, ASharedTableIsAHead) {
  const WeightTypes types = types_for(llama(2, R"(, "tie_word_embeddings": true)"), DType::kQ4K);
  EXPECT_EQ(types.by_name.at("embeddings.weight"), DType::kQ6K);
  WeightTypes named;
  named.embeddings = DType::kF16;
  const WeightTypes kept = types_for(llama(2), DType::kQ4K, named);
  EXPECT_EQ(kept.of("embeddings.weight", Weight::Layout::kRows, Init()), DType::kF16);
  EXPECT_EQ(kept.of("lm_head.weight", Weight::Layout::kPanels, Init()), DType::kQ6K);
}

// Values count their own layers, which few layers of this family have.
TEST_F(Mixes, LayersOfAnLfm2) {
  const WeightTypes types = types_for(
      R"({"model_type": "lfm2", "vocab_size": 64, "hidden_size": 256, "num_hidden_layers": 16,
          "num_attention_heads": 4, "num_key_value_heads": 2, "block_ff_dim": 512,
          "full_attn_idxs": [2, 5, 8, 10, 12, 14]})",
      DType::kQ4K);
  EXPECT_EQ(layers_with(types, "full_attention.v_proj.weight", DType::kQ6K), (Layers{8, 14}));
  EXPECT_EQ(layers_with(types, "ffn.down.weight", DType::kQ6K), (Layers{0, 1, 4, 7, 10, 13, 14, 15}));
  EXPECT_EQ(layers_with(types, "conv.in_proj.weight", DType::kQ4K).size(), 10u);
}

// The same roles in a family that llama.cpp has not; gates keep the file's type.
TEST_F(Mixes, LayersOfAnXlstm) {
  const WeightTypes types = types_for(
      R"({"model_type": "xlstm", "vocab_size": 64, "hidden_size": 256, "num_hidden_layers": 8, "num_heads": 4})",
      DType::kQ4K);
  const Layers more = {0, 3, 6, 7};
  EXPECT_EQ(layers_with(types, "mlstm.v.weight", DType::kQ6K), more);
  EXPECT_EQ(layers_with(types, "ffn.down.weight", DType::kQ6K), more);
  EXPECT_EQ(types.by_name.count("layers.0.mlstm.igate.weight"), 0u);
}

TEST_F(Mixes, NullIsTheDefaultNumberOfExperts) {
  const auto types_with = [&](const std::string& experts) {
    return types_for(R"({"model_type": "carousel", "vocab_size": 64, "hidden_size": 256,
      "layer_types": ["full_attention", "conv"], "attention_config": {"num_heads": 4, "num_kv_heads": 2},
      "ffn_config": {"type": "moe"}, "moe_config": {"intermediate_size": 256, "num_experts": )" +
                         experts + "}}",
                     DType::kQ4K);
  };
  EXPECT_EQ(types_with("null").by_name, types_with("8").by_name);
}

TEST(FittingDtype, RowsThatAreNoWholeBlocksOf256) {
  EXPECT_EQ(fitting_dtype(DType::kQ4K, 512), DType::kQ4K);
  EXPECT_EQ(fitting_dtype(DType::kQ4K, 288), DType::kQ50);
  EXPECT_EQ(fitting_dtype(DType::kQ5K, 288), DType::kQ51);
  EXPECT_EQ(fitting_dtype(DType::kQ6K, 288), DType::kQ8);
  EXPECT_EQ(fitting_dtype(DType::kQ4K, 48), std::nullopt);
  EXPECT_EQ(fitting_dtype(DType::kQ4, 48), std::nullopt);
  EXPECT_EQ(fitting_dtype(DType::kF16, 48), DType::kF16);
}

TEST(FittingDtype, MaskedWeightsStayZero) {
  WeightTypes types;
  Init init;
  init.mask = std::make_shared<MatrixMask>(2, 2, false, std::vector<int8_t>{1, 0, 0, 1});
  for (const auto& [asked, given] : {std::pair{DType::kQ4K, DType::kQ4}, std::pair{DType::kQ5K, DType::kQ8},
                                     std::pair{DType::kQ6K, DType::kQ8}, std::pair{DType::kF16, DType::kF16}}) {
    types.body = asked;
    EXPECT_EQ(types.of("layers.0.ffn.up.weight", Weight::Layout::kPanels, init), given);
  }
}

}  // namespace
}  // namespace carousel::model
