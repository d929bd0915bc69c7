// SPDX-License-Identifier: Apache-2.0
// LFM2 and LFM2-MoE on tiny models whose weights a formula gives: logits, tokens, states and chosen experts as an
// independent double-precision implementation printed them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "carousel/cpu/isa.h"
#include "carousel/model/families/family.h"
#include "carousel/model/load.h"
#include "carousel/model/params.h"
#include "carousel/model/runner.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/moe/moe.h"

namespace carousel::model {
namespace {

constexpr double kTolerance = 2e-5;  // what an f32 engine should keep of the printed seven digits
const std::vector<int32_t> kPrompt{1, 5, 9, 2, 17, 3, 11};

const std::string kBackbone =
    R"("vocab_size": 24, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4,
       "layer_types": ["conv", "full_attention", "conv", "full_attention"], "norm_eps": 1e-5, "rope_theta": 1e6, )";
const std::string kDense = R"({"model_type": "lfm2", "block_ff_dim": 50, "block_multiple_of": 8, )" + kBackbone;
const std::string kMoe =
    R"({"model_type": "lfm2_moe", "intermediate_size": 20, "moe_intermediate_size": 12, "num_experts": 6,
        "num_experts_per_tok": 2, "num_dense_layers": 1, )" +
    kBackbone;

// A linear congruential generator seeded by the FNV-1a hash of the published name.
class FormulaParams : public ParamSource {
 public:
  FormulaParams(const Stream& stream, const ModelConfig& config) : stream_(stream), config_(config) {}

  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const Tensor values = tensor(name, Shape{rows, cols}, init);
    Weight weight(rows, cols, DType::kF32, layout);
    weight.write_rows(stream_, 0, rows, values.raw());
    return weight;
  }

  Tensor tensor(const std::string& asked, const Shape& shape, const Init&) override {
    const auto renamed = std::find_if(renames.begin(), renames.end(), [&](const auto& r) { return r.first == asked; });
    const std::string canonical = renamed == renames.end() ? asked : renamed->second;
    const std::string name =
        find_family(config_.model_type, "test").names.sources(config_, canonical).front().file_name;
    uint32_t x = 2166136261u;
    for (const char c : name) x = (x ^ static_cast<uint8_t>(c)) * 16777619u;
    const bool norm = name.find("norm") != std::string::npos, bias = name.ends_with("expert_bias");
    Tensor values(shape, DType::kF32);
    for (int64_t i = 0; i < values.count(); ++i) {
      x = 1664525u * x + 1013904223u;
      const double u = (x >> 8) / 16777216.0;
      values.f32()[i] = static_cast<float>(norm ? 0.75 + 0.5 * u : bias ? (u - 0.5) * 0.2 : u - 0.5);
    }
    return values;
  }

  std::vector<std::pair<std::string, std::string>> renames;  // asked -> drawn as

 private:
  const Stream& stream_;
  const ModelConfig& config_;
};

class Lfm2Values : public testing::Test {
 protected:
  Lfm2Values() : stream_{&Memory::host(), cpu::best_isa(), &pool_} {}

  void build(const std::string& json) {
    config_ = parse_config(parse_json(json, "test"), "test");
    FormulaParams params(stream_, config_);
    lm_ = std::make_unique<Lm>(config_, params, "test");
    runner_ = std::make_unique<Runner>(*lm_, stream_);
  }

  std::vector<float> logits(const std::vector<int32_t>& tokens, State& state) {
    const Tensor row = runner_->logits(runner_->prefill(tokens, state));
    return {row.f32(), row.f32() + row.count()};
  }
  static int32_t best(const std::vector<float>& row) {
    return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
  }

  void expect_last_logits(const std::vector<double>& expected) {
    State whole, stepped;
    const std::vector<float> row = logits(kPrompt, whole);
    std::vector<float> last;
    for (const int32_t token : kPrompt) last = logits({token}, stepped);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(row[i], expected[i], kTolerance) << i;
      EXPECT_NEAR(last[i], expected[i], kTolerance) << i;
    }
  }
  std::vector<int32_t> argmaxes() {
    State state;
    std::vector<int32_t> out;
    for (const int32_t token : kPrompt) out.push_back(best(logits({token}, state)));
    return out;
  }
  std::vector<int32_t> greedy(size_t count) {
    State state;
    std::vector<int32_t> out, next = kPrompt;
    while (out.size() < count) {
      next = {best(logits(next, state))};
      out.push_back(next[0]);
    }
    return out;
  }

  // Experts of the last prompt position in layer `layer`: a stack of the sublayers before it whose final norm is the
  // experts' own gives what its router reads.
  std::vector<int32_t> experts(int64_t layer) {
    const auto moe = std::find_if(config_.sublayers.begin(), config_.sublayers.end(), [&](const Sublayer& sublayer) {
      return sublayer.layer == layer && sublayer.block == "moe";
    });
    ModelConfig before = config_;
    before.sublayers.assign(config_.sublayers.begin(), moe);
    before.final_norm = moe->norm;
    FormulaParams params(stream_, config_);
    params.renames = {{"out_norm.weight", moe->name + ".norm.weight"}};
    const Lm lm(before, params, "test");
    Runner runner(lm, stream_);
    State state;
    const Tensor hidden = runner.prefill(kPrompt, state);
    Ctx ctx{stream_, runner.arena()};
    const Weight router = params.matrix(moe->name + ".router.weight", 6, 16, Weight::Layout::kPanels, {});
    ops::MoeRouting routing;
    routing.top_k = 2;
    routing.expert_bias = params.tensor(moe->name + ".expert_bias", Shape{6}, {});
    const ops::MoeRoutes routes = ops::moe_route(ctx, ops::linear(ctx, hidden, {&router}), routing);
    return {routes.experts.i32()[0], routes.experts.i32()[1]};
  }

  ThreadPool pool_{2};
  Stream stream_;
  ModelConfig config_;
  std::unique_ptr<Lm> lm_;
  std::unique_ptr<Runner> runner_;
};

using Ids = std::vector<int32_t>;

TEST_F(Lfm2Values, TheFormulaGivesTheStatedWeights) {
  build(kDense + R"("conv_L_cache": 3})");
  FormulaParams params(stream_, config_);
  const Tensor embeddings = params.tensor("embeddings.weight", Shape{24, 16}, {});
  const Tensor norm = params.tensor("layers.0.conv.norm.weight", Shape{16}, {});
  EXPECT_FLOAT_EQ(embeddings.f32()[0], 0.178058803f);
  EXPECT_FLOAT_EQ(embeddings.f32()[3], -0.035830617f);
  EXPECT_FLOAT_EQ(norm.f32()[0], 1.01972890f);
  EXPECT_FLOAT_EQ(norm.f32()[2], 1.00706482f);
}

TEST_F(Lfm2Values, DenseTied) {
  build(kDense + R"("conv_L_cache": 3})");
  expect_last_logits({.4221856,   -.9581273,  .6959249,  -.9101769, .6354034,  -.0367836, -.5150507, 1.4414035,
                      -1.3016122, -1.3083828, .1800147,  -.6547357, 1.8860727, .4883309,  -.5850874, .2750400,
                      .9900873,   .4420040,   1.6506702, .5626669,  1.2502045, -.8821894, .6850512,  -1.1096517});
  EXPECT_EQ(argmaxes(), (Ids{1, 11, 21, 21, 12, 22, 12}));
  State state;
  logits(kPrompt, state);
  const Tensor u = state.tensors(lm_->state_layout())[0].tensor;  // [2, 16] of layer 0
  const double older[] = {1.6646351, .0650262, -.3274720, -1.9454738};
  const double newer[] = {-.0342224, .5233999, -1.6365666, 1.7308992};
  for (int64_t c = 0; c < 4; ++c) {
    EXPECT_NEAR(u.f32()[c], older[c], kTolerance);
    EXPECT_NEAR(u.f32()[16 + c], newer[c], kTolerance);
  }
}

TEST_F(Lfm2Values, DenseUntiedWithBiasesAndFourTaps) {
  build(kDense + R"("conv_L_cache": 4, "conv_bias": true, "tie_word_embeddings": false})");
  expect_last_logits({-.5156602,  -.9648218, .0922982,  -.0198184, -.0884039,  .6719092,  -1.2458129, -1.1112139,
                      -1.4118493, -.0894688, .2002046,  .6537685,  .9450221,   2.1533505, .5315519,   .9236050,
                      .1503559,   -.6991989, -.1100218, -.7365155, -1.8924596, .2190987,  -.2594272,  -.7505295});
  EXPECT_EQ(argmaxes(), (Ids{3, 15, 16, 11, 2, 15, 13}));
  EXPECT_EQ(greedy(8), (Ids{13, 2, 3, 20, 21, 7, 16, 11}));
}

TEST_F(Lfm2Values, Experts) {
  build(kMoe + R"("conv_L_cache": 3})");
  expect_last_logits({-.9192595,  -.8495373,  .3077290,  .8421608,   -.5459402,  -.3233725, .1131518,  -1.9518767,
                      -.8623177,  -1.8964258, -.3541898, -.4015984,  -1.5613910, .2068536,  1.9813251, -3.0670940,
                      -1.7147581, -.0197097,  .8879042,  -1.5148728, -.4250866,  -.1180656, -.3944921, .2608354});
  EXPECT_EQ(argmaxes(), (Ids{0, 21, 9, 10, 17, 4, 14}));
  EXPECT_EQ(experts(1), (Ids{1, 2}));
  EXPECT_EQ(experts(2), (Ids{1, 3}));
  EXPECT_EQ(experts(3), (Ids{0, 2}));
}

TEST_F(Lfm2Values, ExpertsWithoutNormalisationAndScaled) {
  build(kMoe + R"("conv_L_cache": 3, "norm_topk_prob": false, "routed_scaling_factor": 2.5})");
  expect_last_logits({-1.5699356, -.3934001, .3046090, .3805475, -1.6047175});
  State state;
  EXPECT_NEAR(logits(kPrompt, state)[14], 2.2805847, kTolerance);
  EXPECT_EQ(argmaxes(), (Ids{22, 1, 18, 10, 8, 4, 14}));
  EXPECT_EQ(greedy(3), (Ids{14, 6, 0}));
}

// The printed case notices a bias that is ignored.
TEST_F(Lfm2Values, ExpertsDependOnTheirBias) {
  build(kMoe + R"("conv_L_cache": 3})");
  State a, b;
  const std::vector<float> biased = logits(kPrompt, a);
  build(kMoe + R"("conv_L_cache": 3, "use_expert_bias": false})");
  const std::vector<float> plain = logits(kPrompt, b);
  double difference = 0;
  for (size_t i = 0; i < plain.size(); ++i) difference = std::max(difference, std::abs(double{plain[i]} - biased[i]));
  EXPECT_GT(difference, 1e-3);
}

TEST(Lfm2MoeSize, PublishedCountsAndWhatATokenUses) {
  const ModelConfig config = parse_config(
      parse_json(R"({"model_type": "lfm2_moe", "num_hidden_layers": 24, "full_attn_idxs": [2, 6, 10, 14, 18, 21]})",
                 "8b"),
      "8b");
  const ModelSize size = measure(config, "8b");
  EXPECT_EQ(size.parameters, 8339930560);
  // 22 layers of experts, 28 of 32 of which a token leaves alone.
  EXPECT_EQ(size.active_parameters, 8339930560 - int64_t{22} * 28 * 3 * 2048 * 1792);
}

}  // namespace
}  // namespace carousel::model
