// SPDX-License-Identifier: Apache-2.0
// Models whose projections carry wirings, from config to tokens: masks of ones change no bit, masked weights count for
// nothing, stored masks are obeyed, info counts, and what contradicts a wiring is refused.
#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

constexpr const char* kMixed = R"({{"model_type": "carousel", "vocab_size": 256, "hidden_size": 64,
  "num_hidden_layers": 5, "layer_types": ["mlstm", "slstm", "mlstm_v1", "conv", "full_attention"],
  "mlstm_config": {{"num_heads": 4{0}}}, "slstm_config": {{"num_heads": 2{0}}}, "mlstm_v1_config": {{"num_heads": 4{0}}},
  "conv_config": {{"kernel_size": 3{0}}}, "attention_config": {{"num_heads": 4{0}}},
  "ffn_config": {{"type": "moe", "num_dense_layers": 3, "intermediate_size": 96{0}}},
  "moe_config": {{"num_experts": 3, "intermediate_size": 40{0}}}}})";

std::string mixed(const std::string& wiring) {
  return fmt::format(kMixed, wiring.empty() ? "" : ", \"wiring\": " + wiring);
}

std::string one_mlstm(const std::string& wiring) {
  return fmt::format(R"({{"model_type": "carousel", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 1,
                          "mlstm_config": {{"num_heads": 4, "wiring": {}}}}})",
                     wiring);
}

std::vector<std::vector<float>> logits(const std::string& folder) {
  Library library(folder);
  return library.step({84, 104, 101, 32, 100, 111, 103});
}

NamedTensors tensors(const std::string& folder) {
  return formats::SafetensorsFile::open(folder + "/model.safetensors").load_all();
}
Tensor& find(NamedTensors& all, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const NamedTensor& t) { return t.name == name; });
  EXPECT_NE(found, all.end()) << name;
  return found->tensor;
}
void rewrite(const std::string& folder, const NamedTensors& all) {
  std::filesystem::remove(folder + "/model.safetensors");
  formats::write_safetensors(folder + "/model.safetensors", all);
}

/// Of loading; "" when it is accepted.
std::string refusal(const std::string& folder) {
  try {
    Library library(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(WiredModel, MasksOfOnesChangeNoBit) {
  const Scratch plain, wired;
  const std::string folder = init_model(plain, mixed(""), "--seed 5");
  const std::string ones = init_model(wired, mixed(R"({"*": {"type": "random", "sparsity": 0}})"), "--seed 5");
  EXPECT_EQ(logits(folder), logits(ones));
}

TEST(WiredModel, EveryProjectionOfEveryBlockMayBeWired) {
  const Scratch scratch;
  const std::string folder = init_model(
      scratch, mixed(R"({"*": {"type": "random", "sparsity": 0.9, "seed": 1, "polarity": true}})"), "--dtype bf16");
  const Json info = parse_json(run_carousel("info --json " + folder).out, "info");
  std::vector<std::string> names;
  for (const Json& kind : info.at("wirings")) {
    names.push_back(kind.at("name"));
    EXPECT_NEAR(kind.at("density").get<double>(), 0.1, 0.01) << kind;
    EXPECT_EQ(kind.at("polarity"), true);
  }
  for (const char* name : {"mlstm.q",
                           "mlstm.k",
                           "mlstm.v",
                           "mlstm.ogate",
                           "mlstm.igate",
                           "mlstm.fgate",
                           "mlstm.out",
                           "slstm.igate",
                           "slstm.zgate",
                           "mlstm_v1.up",
                           "mlstm_v1.q",
                           "mlstm_v1.down",
                           "conv.in_proj",
                           "full_attention.q_proj",
                           "full_attention.out_proj",
                           "ffn.gate",
                           "ffn.up",
                           "ffn.down",
                           "ffn.router",
                           "ffn.experts.*.up"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
  const Ran ran = run_carousel("generate " + folder + " -p abc -n 8 --seed 1");
  EXPECT_EQ(ran.status, 0) << ran.err;
  EXPECT_EQ(ran.err.find("warning"), std::string::npos) << ran.err;
}

// What init wrote obeys the wiring: zeros where masked, the counted number of others, signs in both directions.
TEST(WiredModel, InitWritesExactZerosAndInfoCountsThem) {
  const Scratch scratch;
  const std::string wiring = R"({"q": {"type": "random", "sparsity": 0.9, "seed": 1, "polarity": true}})";
  const std::string folder = init_model(scratch, one_mlstm(wiring), "--seed 2");
  NamedTensors all = tensors(folder);
  const Tensor& q = find(all, "layers.0.mlstm.q.weight");
  int64_t live = 0, negative = 0;
  for (int64_t i = 0; i < q.count(); ++i) {
    live += q.f32()[i] != 0.0f ? 1 : 0;
    negative += q.f32()[i] < 0 ? 1 : 0;
  }
  EXPECT_EQ(live, 205);  // round(32 * 64 / 10)
  EXPECT_TRUE(negative > 60 && negative < 145) << negative;
  const Json info = parse_json(run_carousel("info --json " + folder).out, "info");
  ASSERT_EQ(info.at("wirings").size(), 1u);
  const Json& kind = info.at("wirings")[0];
  EXPECT_EQ(kind.at("live"), 205);
  EXPECT_EQ(kind.at("masked"), 32 * 64 - 205);
  EXPECT_EQ(info.at("live_parameters").get<int64_t>(), info.at("parameters").get<int64_t>() - (32 * 64 - 205));
  EXPECT_EQ(info.at("active_parameters"), info.at("live_parameters"));
  const Ran ran = run_carousel("info " + folder);
  EXPECT_NE(ran.out.find("mlstm.q, [32, 64] of fixed signs: density 0.1001, 205 live and 1,843 masked weights"),
            std::string::npos)
      << ran.out;
}

TEST(WiredModel, ATokenTakesTheLiveWeightsOfItsExperts) {
  const Scratch scratch;
  write_file(scratch / "config.json",
             R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32, "layer_types": ["ffn_only"],
                 "ffn_config": {"type": "moe"}, "moe_config": {"num_experts": 4, "num_experts_per_tok": 1,
                 "intermediate_size": 64, "wiring": {"experts.*.up": {"type": "random", "sparsity": 0.75}}}})");
  const Json info = parse_json(run_carousel("info --json " + (scratch / "config.json")).out, "info");
  const auto count = [&](const char* key) { return info.at(key).get<int64_t>(); };
  EXPECT_EQ(count("parameters") - count("live_parameters"), 4 * 32 * 64 * 3 / 4);
  EXPECT_EQ(count("live_parameters") - count("active_parameters"), 3 * (2 * 32 * 64 + 32 * 64 / 4));  // 3 not chosen
  const Ran ran = run_carousel("info " + (scratch / "config.json"));
  EXPECT_NE(ran.out.find(" of them live, the rest masked, "), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find(" active per token\n"), std::string::npos) << ran.out;
}

TEST(WiredModel, MaskedValuesOfAFileCountForNothingAndAreReported) {
  for (const char* sparsity : {"0.9", "0.5"}) {  // held sparse, and with zeros
    const Scratch scratch;
    const std::string folder = init_model(
        scratch, one_mlstm(fmt::format(R"({{"q": {{"type": "random", "sparsity": {}}}}})", sparsity)), "--seed 2");
    const std::vector<std::vector<float>> clean = logits(folder);
    NamedTensors all = tensors(folder);
    Tensor& q = find(all, "layers.0.mlstm.q.weight");
    int64_t changed = 0;
    for (int64_t i = 0; i < q.count() && changed < 12; ++i) {
      if (q.f32()[i] != 0.0f) continue;
      q.f32()[i] = 3.0f;
      ++changed;
    }
    rewrite(folder, all);
    EXPECT_EQ(logits(folder), clean);
    const Ran ran = run_carousel("generate " + folder + " -p a -n 1");
    EXPECT_NE(ran.err.find("layers.0.mlstm.q.weight has 12 values other than zero where its wiring has no weight"),
              std::string::npos)
        << ran.err;
  }
}

TEST(WiredModel, AWeightAgainstItsPolarityIsRefusedByItsPlace) {
  const Scratch scratch;
  const std::string folder =
      init_model(scratch, one_mlstm(R"({"q": {"type": "random", "sparsity": 0.5, "polarity": true}})"), "--seed 2");
  NamedTensors all = tensors(folder);
  Tensor& q = find(all, "layers.0.mlstm.q.weight");
  int64_t at = 5 * 64;
  while (q.f32()[at] == 0.0f) ++at;
  q.f32()[at] = -q.f32()[at];
  rewrite(folder, all);
  EXPECT_EQ(refusal(folder),
            fmt::format("{}: the element [5, {}] of layers.0.mlstm.q.weight has not the sign its wiring "
                        "gives it",
                        folder, at - 5 * 64));
  q.f32()[at] = 0.0f;  // no weight is no contradiction
  rewrite(folder, all);
  EXPECT_EQ(refusal(folder), "");
}

TEST(WiredModel, AStoredMaskCounts) {
  const Scratch scratch;
  const std::string wiring = R"({"q": {"type": "checkpoint", "polarity": true,
                                       "init": {"type": "random", "sparsity": 0.8}}})";
  const std::string folder = init_model(scratch, one_mlstm(wiring), "--seed 2");
  NamedTensors all = tensors(folder);
  const Tensor& mask = find(all, "layers.0.mlstm.q.mask");
  ASSERT_EQ(mask.dtype(), DType::kI8);
  ASSERT_EQ(mask.shape(), (Shape{32, 64}));
  auto* const signs = static_cast<int8_t*>(mask.raw());
  EXPECT_EQ(mask.count() - std::count(signs, signs + mask.count(), 0), 410);
  const Tensor& q = find(all, "layers.0.mlstm.q.weight");
  for (int64_t i = 0; i < q.count(); ++i) {
    EXPECT_EQ(q.f32()[i] > 0 ? 1 : q.f32()[i] < 0 ? -1 : 0, signs[i]) << i;
  }
  EXPECT_EQ(refusal(folder), "");

  std::fill(signs, signs + 64, int8_t{0});  // row 0 is cut off
  rewrite(folder, all);
  const Json info = parse_json(run_carousel("info --json " + folder).out, "info");
  int64_t live = mask.count() - std::count(signs, signs + mask.count(), 0);
  EXPECT_EQ(info.at("wirings")[0].at("live"), live);
  const std::vector<std::vector<float>> cut = logits(folder);
  std::fill(q.f32(), q.f32() + 64, 0.0f);
  rewrite(folder, all);
  EXPECT_EQ(logits(folder), cut);

  signs[70] = 2;
  rewrite(folder, all);
  EXPECT_EQ(refusal(folder), folder + ": \"layers.0.mlstm.q.mask\" holds 2 at [1, 6], expected -1, 0 or 1");
  EXPECT_EQ(run_carousel("info " + folder).status, 1);
  all.erase(std::remove_if(all.begin(), all.end(), [](const NamedTensor& t) { return t.name.ends_with(".mask"); }),
            all.end());
  all.push_back({"layers.0.mlstm.q.mask", Tensor(Shape{32, 63}, DType::kI8)});
  rewrite(folder, all);
  EXPECT_NE(refusal(folder).find("\"layers.0.mlstm.q.mask\" is I8 [32, 63], expected [32, 64]"), std::string::npos)
      << refusal(folder);
  EXPECT_EQ(run_carousel("info " + folder).status, 1);
  all.pop_back();
  rewrite(folder, all);
  EXPECT_NE(refusal(folder).find("\"layers.0.mlstm.q.mask\" is missing"), std::string::npos) << refusal(folder);
}

TEST(WiredModel, TrainingObeysAStoredMask) {
  const Scratch scratch;
  const std::string wiring = R"({"q": {"type": "checkpoint", "polarity": true,
                                       "init": {"type": "random", "sparsity": 0.5}}})";
  const std::string folder = init_model(scratch, one_mlstm(wiring), "--seed 2");
  NamedTensors all = tensors(folder);
  auto* const signs = static_cast<int8_t*>(find(all, "layers.0.mlstm.q.mask").raw());
  std::fill(signs, signs + 64, int8_t{0});  // the drawn mask has weights there
  std::fill_n(find(all, "layers.0.mlstm.q.weight").f32(), 64, 0.0f);
  rewrite(folder, all);
  write_file(scratch / "text.txt", std::string(2000, 'x') + "the quick brown fox");
  const std::string out = scratch / "run";
  const Ran ran = run_carousel("train --model " + folder + " --data " + (scratch / "text.txt") + " --out " + out +
                               " --steps 4 --batch 2 --seq 64 --lr 0.3 -t 1");
  ASSERT_EQ(ran.status, 0) << ran.err;
  NamedTensors trained = tensors(out + "/step-4");
  const Tensor& mask = find(trained, "layers.0.mlstm.q.mask");
  EXPECT_TRUE(std::equal(signs, signs + mask.count(), static_cast<const int8_t*>(mask.raw())));
  const Tensor &q = find(trained, "layers.0.mlstm.q.weight"), &before = find(all, "layers.0.mlstm.q.weight");
  int64_t moved = 0;
  for (int64_t i = 0; i < q.count(); ++i) {
    const int sign = q.f32()[i] > 0 ? 1 : q.f32()[i] < 0 ? -1 : 0;
    ASSERT_TRUE(sign == 0 || sign == signs[i]) << i;
    moved += q.f32()[i] != before.f32()[i];
  }
  EXPECT_GT(moved, 500);
}

TEST(WiredModel, MasksInOtherTypesAreTheSame) {
  const Scratch scratch;
  const std::string folder = init_model(
      scratch, one_mlstm(R"({"q": {"type": "checkpoint", "init": {"type": "random", "sparsity": 0.8}}})"), "--seed 2");
  const std::vector<std::vector<float>> expected = logits(folder);
  NamedTensors all = tensors(folder);
  Tensor& mask = find(all, "layers.0.mlstm.q.mask");
  const Tensor entries = mask.clone();
  const auto* const signs = static_cast<const int8_t*>(entries.raw());
  for (const DType dtype : {DType::kU8, DType::kBool, DType::kF32}) {
    Tensor other(entries.shape(), dtype);
    for (int64_t i = 0; i < entries.count(); ++i) {
      if (dtype == DType::kF32) {
        other.f32()[i] = signs[i];
      } else {
        static_cast<uint8_t*>(other.raw())[i] = static_cast<uint8_t>(signs[i]);
      }
    }
    mask = other;
    rewrite(folder, all);
    EXPECT_EQ(logits(folder), expected) << dtype_name(dtype);
  }
}

TEST(WiredModel, BenchRunsAWiredConfig) {
  const Scratch scratch;
  write_file(scratch / "config.json", mixed(R"({"*": {"type": "random", "sparsity": 0.9}})"));
  const Ran ran = run_carousel("bench " + (scratch / "config.json") + " --random -p 8 -n 4 -r 1");
  EXPECT_EQ(ran.status, 0) << ran.err;
}

}  // namespace
}  // namespace carousel::cli
