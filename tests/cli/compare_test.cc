// SPDX-License-Identifier: Apache-2.0
// carousel compare, and --profile of the other commands, as a user runs them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"
#include "carousel/verify/drift.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

constexpr const char* kTinyLtc = R"({"model_type": "ltc", "input_size": 2, "units": 3})";

Json compared(const std::string& arguments) {
  const Ran ran = run_carousel("compare " + arguments + " --json");
  EXPECT_EQ(ran.status, 0) << ran.err;
  return parse_json(ran.out, "stdout");
}

TEST(Compare, AProfileDoesNotDriftFromItself) {
  const Scratch scratch;
  const Json result = compared(init_model(scratch, kTinyMixed) + " --b native -p 'some text' -n 3");
  EXPECT_EQ(result["tokens"], 9);
  EXPECT_EQ(result["sublayers"].size(), 7u);  // four layers, three of them with a feed-forward network
  for (const Json& sublayer : result["sublayers"]) {
    EXPECT_EQ(sublayer["relative_l2"], 0);
    EXPECT_EQ(sublayer["max_abs"], 0);
  }
  EXPECT_EQ(result["logits"]["relative_l2"], 0);
  EXPECT_EQ(result["next_token"], (Json{{"agree", 9}, {"of", 9}}));
  EXPECT_EQ(result["greedy"], (Json{{"agree", 3}, {"of", 3}}));
}

TEST(Compare, ShowsWhereProfilesPart) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm);
  const Json result = compared(model + " --b torch-bf16 --ids 1,2,3,4,5");
  EXPECT_EQ(result["a"]["name"], "native");
  EXPECT_EQ(result["b"]["activations"], "bf16");
  EXPECT_GT(result["embeddings"]["relative_l2"].get<double>(), 1e-4);  // the parameters are rounded
  EXPECT_LT(result["embeddings"]["relative_l2"].get<double>(), 1e-2);
  const Json& first = result["sublayers"][0];
  EXPECT_EQ(first["name"], "layers.0.mlstm");
  EXPECT_EQ(first["states"].size(), 3u);
  EXPECT_GT(first["states"]["0.C"]["relative_l2"].get<double>(), 0);
  EXPECT_TRUE(result["sublayers"][1]["states"].empty());
  // Of the types alone: nothing happens before the first product.
  write_file(scratch / "states.json", R"({"name": "states", "states": "bf16"})");
  const Json states = compared(model + " --b " + (scratch / "states.json") + " --ids 1,2,3,4,5 -n 0");
  EXPECT_EQ(states["sublayers"][0]["relative_l2"], 0);  // rounded after the call
  EXPECT_GT(states["sublayers"][0]["states"]["0.C"]["relative_l2"].get<double>(), 1e-5);
  EXPECT_EQ(states["greedy"]["of"], 0);

  const Ran table = run_carousel("compare " + model + " --a torch-f32 --b torch-bf16 -p hello");
  EXPECT_EQ(table.status, 0) << table.err;
  for (const char* text : {"a torch-f32, b torch-bf16", "embeddings", "layers.1.ffn", "state 1.m", "logits",
                           "next token: the same at", "greedy: the first"}) {
    EXPECT_NE(table.out.find(text), std::string::npos) << text << "\n" << table.out;
  }
}

TEST(Compare, TypesOfProductsAreTwoSides) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm, "--dtype bf16");
  const Json result = compared(model + " --compute f32,bf16 --ids 1,2,3 -n 0");
  EXPECT_EQ(result["compute"], Json({"f32", "bf16"}));
  EXPECT_GT(result["logits"]["relative_l2"].get<double>(), 1e-5);
  EXPECT_LT(result["logits"]["relative_l2"].get<double>(), 5e-2);
  const Ran table = run_carousel("compare " + model + " --compute bf16,f32 --ids 1,2 -n 0");
  EXPECT_NE(table.out.find("a native in bf16, b native in f32"), std::string::npos) << table.out;
  EXPECT_EQ(run_carousel("compare " + model + " --compute f16,f32 --ids 1").status, 2);
  EXPECT_EQ(run_carousel("compare " + model + " --compute bf16 --ids 1").status, 2);
}

TEST(Drift, WhatIsNoNumberStaysTheLargest) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), a[] = {1, 1, 1}, b[] = {1, nan, 2};
  verify::Drift drift;
  drift.add(a, b, 3);
  EXPECT_TRUE(std::isnan(drift.largest));
}

TEST(Compare, LongTextsAreRunInSlabs) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm);
  write_file(scratch / "text", std::string(1100, 'a'));
  const Json result = compared(model + " --b mlx -n 1 -f " + (scratch / "text"));
  EXPECT_EQ(result["tokens"], 1100);
  EXPECT_EQ(result["next_token"]["of"], 1100);
}

TEST(Compare, RefusesWhatItCannotRun) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm);
  EXPECT_EQ(run_carousel("compare " + model + " -p x").status, 2);
  EXPECT_EQ(run_carousel("compare " + model + " --b mlx -p x --ids 1").status, 2);
  EXPECT_EQ(run_carousel("compare " + model + " --b mlx --ids 1,-2").status, 2);
  const Ran unknown = run_carousel("compare " + model + " --b tf -p x");
  EXPECT_EQ(unknown.status, 1);
  EXPECT_NE(unknown.err.find("none of the known ones: native, mlx"), std::string::npos) << unknown.err;
  const Ran outside = run_carousel("compare " + model + " --b mlx --ids 256");
  EXPECT_EQ(outside.status, 1);
  EXPECT_NE(outside.err.find("expected 0 to 255"), std::string::npos) << outside.err;
}

TEST(ProfileOption, ActsOnGenerateAndEvalAndVerify) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm);
  const auto run = [&](const std::string& profile) {
    return run_carousel("generate " + model + " -p abc -n 2 --temp 0 --seed 1 --json --profile " + profile).out;
  };
  EXPECT_EQ(run("native"), run_carousel("generate " + model + " -p abc -n 2 --temp 0 --seed 1 --json").out);
  EXPECT_NE(run("native"), run("torch-bf16"));
  write_file(scratch / "text", "a text to predict");
  const auto nats = [&](const std::string& profile) {
    const Ran ran = run_carousel("eval " + model + " --json --text " + (scratch / "text") + " --profile " + profile);
    return parse_json(ran.out, "eval")["text"]["nats_per_token"].get<double>();
  };
  EXPECT_NE(nats("native"), nats("mlx"));
  EXPECT_NEAR(nats("native"), nats("mlx"), 0.1);
  write_expected(model, 5);
  EXPECT_EQ(run_carousel("verify " + model + " --profile torch-f32").status, 0);
  EXPECT_EQ(run_carousel("verify " + model + " --profile torch-bf16").status, 1);
}

TEST(ProfileOption, RefusesAFileThatIsNoProfile) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm);
  write_file(scratch / "p.json", R"({"activation": "bf16"})");
  for (const char* command : {"generate -p x -n 1", "eval --text x", "verify", "compare --b native --a"}) {
    const bool compares = std::string(command).starts_with("compare");
    const Ran ran =
        run_carousel(std::string(command) + (compares ? " " : " --profile ") + (scratch / "p.json") + " " + model);
    EXPECT_EQ(ran.status, 1) << command;
    EXPECT_NE(ran.err.find("unknown key \"activation\"; known keys: activations"), std::string::npos) << ran.err;
  }
}

TEST(ProfileOption, InitDrawsTheValuesOfTheProfile) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyLtc);
  const auto init = [&](const std::string& name, const std::string& flags) {
    const Ran ran = run_carousel("init " + (scratch / "config.json") + " --seed 3 --out " + (scratch / name) + flags);
    EXPECT_EQ(ran.status, 0) << ran.err;
    return formats::SafetensorsFile::open((scratch / name) + "/model.safetensors");
  };
  const auto native = init("native", ""), torch = init("torch", " --profile ncps-torch");
  const auto tf = init("tf", " --profile ncps-tf");
  int seen = 0;
  for (const formats::TensorEntry& entry : native.entries()) {
    const Tensor values = entry.load(), same = torch.find(entry.name)->load(), other = tf.find(entry.name)->load();
    EXPECT_EQ(std::memcmp(values.raw(), same.raw(), values.size_bytes()), 0) << entry.name;
    const std::string last = entry.name.substr(entry.name.rfind('.') + 1);
    for (int64_t i = 0; i < other.count(); ++i) {
      const float value = other.f32()[i];
      if (last == "cm") {
        EXPECT_EQ(value, 0.5f);
      }
      if (last == "gleak") {
        EXPECT_EQ(value, 1.0f);
      }
      if (last == "w" || last == "sensory_w") {
        EXPECT_TRUE(value >= 0.01f && value < 1.0f) << value;
      }
      if (last == "vleak") {
        EXPECT_TRUE(value >= -0.2f && value < 0.2f) << value;
      }
      if (last == "erev" || last == "sensory_erev") {
        EXPECT_TRUE(value == 1 || value == -1) << value;
      }
      seen += last == "cm" || last == "gleak" || last == "w" || last == "vleak" || last == "erev" ? 1 : 0;
    }
  }
  EXPECT_EQ(seen, 3 + 3 + 3 + 9 + 9);
}

TEST(ProfileOption, PredictFollowsTheSolverOfTheProfile) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyLtc);
  ASSERT_EQ(run_carousel("init " + (scratch / "config.json") + " --out " + (scratch / "m")).status, 0);
  const auto run = [&](const std::string& flags) {
    const Ran ran = run_carousel("predict " + (scratch / "m") + flags, "0.5,1\n0.25,-1\n");
    EXPECT_EQ(ran.status, 0) << ran.err;
    return ran.out;
  };
  EXPECT_EQ(run(""), run(" --profile native"));
  EXPECT_EQ(run(""), run(" --profile ncps-torch"));
  EXPECT_NE(run(""), run(" --profile ncps-tf"));
}

}  // namespace
}  // namespace carousel::cli
