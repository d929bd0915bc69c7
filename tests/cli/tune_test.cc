// SPDX-License-Identifier: Apache-2.0
// Fine-tuning: what is frozen, adapters, and their merging.
#include <algorithm>

#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

constexpr const char* kHowLong = " --seq 16 --batch 4 --micro-batch 3 --lr 1e-2 -t 2 ";

/// A model and a text to train it on.
struct Tuned {
  explicit Tuned(const char* config = kTinyXlstm, const std::string& flags = "")
      : model(init_model(scratch, config, flags)) {
    std::string text;
    for (int i = 0; i < 400; ++i) text += "line " + std::to_string(i * i % 97) + " of the text\n";
    write_file(scratch / "text.txt", text);
  }
  Ran train(const std::string& out, const std::string& flags) const {
    return run_carousel("train --model " + model + " --data " + (scratch / "text.txt") + kHowLong + "--out " +
                        (scratch / out) + " " + flags);
  }

  Scratch scratch;
  std::string model;
};

void expect_one_line(const Ran& ran, const std::string& part) {
  EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  EXPECT_NE(ran.err.find(part), std::string::npos) << ran.err;
  EXPECT_NE(ran.status, 0);
}

TEST(Freeze, FrozenTensorsKeepTheirBytes) {
  const Tuned tuned;
  const Ran ran = tuned.train("out", "--steps 3 --freeze '*embeddings*' --freeze 'layers.0.mlstm.*'");
  ASSERT_EQ(ran.status, 0) << ran.err;
  std::map<std::string, std::string> before = tensors_of(tuned.model), after = tensors_of(tuned.scratch / "out/step-3");
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, bytes] : before) {
    const bool frozen = name == "backbone.embeddings.weight" || name.starts_with("backbone.blocks.0.mlstm_layer.") ||
                        name == "backbone.blocks.0.norm_mlstm.weight";
    EXPECT_EQ(bytes == after.at(name), frozen) << name;
  }
}

TEST(Freeze, FrozenTensorsKeepTheirType) {
  for (const char* dtype : {"bf16", "f16"}) {
    const Tuned tuned(kTinyXlstm, std::string("--dtype ") + dtype);
    const Ran ran = tuned.train("out", "--steps 4 --save-every 2 --freeze '*embeddings*' --freeze '*.q.weight'");
    ASSERT_EQ(ran.status, 0) << ran.err;
    const std::string last = tuned.scratch / "out/step-4";
    const std::map<std::string, std::string> before = tensors_of(tuned.model), after = tensors_of(last);
    for (const auto& [name, bytes] : before) {
      const bool frozen = name.find("embeddings") != name.npos || name.ends_with(".q.weight");
      EXPECT_EQ(bytes == after.at(name), frozen) << name;
    }
    std::filesystem::remove_all(last);  // a resumed run has the types from its checkpoint
    ASSERT_EQ(run_carousel("train --resume " + (tuned.scratch / "out")).status, 0);
    EXPECT_TRUE(tensors_of(last) == after);
    EXPECT_EQ(run_carousel("eval " + last + " --text " + (tuned.scratch / "text.txt")).status, 0);
  }
}

TEST(Freeze, OthersAreTrainedAsWithoutIt) {
  const Tuned tuned(kTinyMixed);
  const std::string one = "--steps 1 --optim sgd --clip 0 ";
  ASSERT_EQ(tuned.train("all", one).status, 0);
  const Ran ran = tuned.train("some", one + "--freeze 'embeddings*' --freeze 'layers.[012].*'");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const auto before = tensors_of(tuned.model), all = tensors_of(tuned.scratch / "all/step-1"),
             some = tensors_of(tuned.scratch / "some/step-1");
  for (const auto& [name, bytes] : some) {
    const bool frozen = name.starts_with("embeddings") || (name.starts_with("layers.") && name[7] != '3');
    EXPECT_TRUE(bytes == (frozen ? before : all).at(name)) << name;
  }
  EXPECT_NE(some, before);
  EXPECT_NE(some, all);
}

TEST(Freeze, PatternsThatLeaveNothingOrNameNothingAreRefused) {
  const Tuned tuned;
  expect_one_line(tuned.train("a", "--steps 1 --freeze nope"), "\"nope\" names no parameter");
  expect_one_line(tuned.train("b", "--steps 1 --freeze '*'"), "nothing of");
}

TEST(Lora, ResumedRunEndsWithTheSameBits) {
  const Tuned tuned;
  const Ran ran = tuned.train("out", "--steps 6 --save-every 3 --keep 9 --lora 3:6");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const std::string last = tuned.scratch / "out/step-6";
  const std::string adapter = read_file(last + "/adapter_model.safetensors");
  const std::string moments = read_file(last + "/train.safetensors");
  std::filesystem::remove_all(last);
  const Ran resumed = run_carousel("train --resume " + (tuned.scratch / "out"));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_TRUE(adapter == read_file(last + "/adapter_model.safetensors"));
  EXPECT_TRUE(moments == read_file(last + "/train.safetensors"));
}

TEST(Lora, ResumedRunKeepsItsBaseAndTargets) {
  const Tuned tuned;
  ASSERT_EQ(tuned.train("out", "--steps 2 --lora 2 --lora-targets q").status, 0);
  const std::string other = tuned.scratch / "other", resume = "train --steps 3 --resume " + (tuned.scratch / "out");
  std::filesystem::copy(tuned.model, other);
  expect_one_line(run_carousel(resume + " --model " + other), "--model: got " + other + ", expected " + tuned.model);
  expect_one_line(run_carousel(resume + " --lora-targets k"), "--lora-targets: got backbone.blocks.0.mlstm_layer.k");
  EXPECT_EQ(run_carousel(resume + " --model " + tuned.model + "/. --lora-targets 'q'").status, 0);
}

TEST(Lora, MicroBatchesAndThreadsLeaveTheBits) {
  const Tuned tuned;
  ASSERT_EQ(tuned.train("whole", "--steps 3 --lora 4").status, 0);
  const std::string flags = " --steps 3 --lora 4 --seq 16 --batch 4 --lr 1e-2 --micro-batch 1 -t 1 --out ";
  const std::string data = "train --model " + tuned.model + " --data " + (tuned.scratch / "text.txt");
  ASSERT_EQ(run_carousel(data + flags + (tuned.scratch / "cut")).status, 0);
  const std::string file = "/step-3/adapter_model.safetensors";
  EXPECT_TRUE(read_file(tuned.scratch / ("whole" + file)) == read_file(tuned.scratch / ("cut" + file)));
}

/// A base: its config, and the type of its weights.
struct Base {
  const char* config;
  const char* dtype;
};
class LoraBase : public testing::TestWithParam<Base> {};

TEST_P(LoraBase, MergedModelIsTheBaseWithItsAdapter) {
  const Tuned tuned(GetParam().config, std::string("--dtype ") + GetParam().dtype);
  ASSERT_EQ(tuned.train("out", "--steps 4 --lora 4").status, 0);
  const std::string adapter = tuned.scratch / "out/step-4", merged = tuned.scratch / "merged";
  const Ran ran = run_carousel("merge " + tuned.model + " " + adapter + " --out " + merged);
  ASSERT_EQ(ran.status, 0) << ran.err;
  const std::string eval = " --json --text " + (tuned.scratch / "text.txt");
  const auto nats = [&](const std::string& flags) {
    return parse_json(run_carousel("eval " + flags + eval).out, "eval").at("text").at("nats_per_token").get<double>();
  };
  EXPECT_EQ(nats(merged), nats(tuned.model + " --adapter " + adapter));  // both are sums in f32
  EXPECT_LT(nats(merged), nats(tuned.model) - 0.01);
}

INSTANTIATE_TEST_SUITE_P(Tiny, LoraBase,
                         testing::Values(Base{kTinyXlstm, "f32"}, Base{kTinyXlstm, "bf16"}, Base{kTinyXlstm, "f16"},
                                         Base{kTinyLfm2, "f32"}, Base{kTinyLlama, "bf16"}, Base{kTinyMixed, "f32"}));

TEST(Lora, GenerateAndChatWriteWhatTheMergedModelWrites) {
  const Tuned tuned;
  ASSERT_EQ(tuned.train("out", "--steps 30 --lora 4").status, 0);
  const std::string adapted = tuned.model + " --adapter " + (tuned.scratch / "out/step-30");
  const std::string merged = tuned.scratch / "merged";
  ASSERT_EQ(run_carousel("merge " + tuned.model + " " + (tuned.scratch / "out/step-30") + " --out " + merged).status,
            0);
  const auto generated = [](const std::string& model) {
    const Ran ran = run_carousel("generate " + model + " -p 'line ' --temp 0 -n 24 -t 1");
    EXPECT_EQ(ran.status, 0) << ran.err;
    return ran.out;
  };
  const auto said = [](const std::string& model) {
    const Ran ran = run_carousel("chat " + model + " --temp 0 -n 24 -t 1", "line \n of\n");
    EXPECT_EQ(ran.status, 0) << ran.err;
    return ran.out;
  };
  EXPECT_EQ(generated(adapted), generated(merged));
  EXPECT_NE(generated(adapted), generated(tuned.model));
  EXPECT_EQ(said(adapted), said(merged));
  EXPECT_NE(said(adapted), said(tuned.model));
  for (const char* command : {"generate ", "chat "}) {
    const std::string flags = " --adapter " + (tuned.scratch / "nowhere") + (command[0] == 'g' ? " -p x" : "");
    expect_one_line(run_carousel(command + tuned.model + flags, "x\n"), "nowhere/adapter_config.json: cannot open");
  }
}

TEST(Lora, WhatDoesNotFitIsOneLine) {
  const Tuned tuned;
  expect_one_line(tuned.train("a", "--steps 1 --lora 4 --lora-targets nope"), "no \"nope\"");
  expect_one_line(tuned.train("b", "--steps 1 --lora 4 --lora-targets embeddings"), "is no projection");
  expect_one_line(tuned.train("c", "--steps 1 --lora 4 --freeze q"), "not with --lora");
  ASSERT_EQ(tuned.train("out", "--steps 1 --lora 4 --lora-targets q").status, 0);
  const std::string adapter = tuned.scratch / "out/step-1";
  const Scratch other;
  std::string config = kTinyXlstm;
  config.replace(config.find("32"), 2, "64");
  const std::string wide = init_model(other, config), text = " --text " + (tuned.scratch / "text.txt");
  expect_one_line(run_carousel("eval " + wide + " --adapter " + adapter + text), "expected floats [4, 64]");
  expect_one_line(run_carousel("merge " + wide + " " + adapter + " --out " + (other / "m")), "expected floats [4, 64]");
  EXPECT_TRUE(is_absent(other / "m"));
  expect_one_line(run_carousel("eval " + tuned.model + " --weights q8 --adapter " + adapter + text), "for an adapter");
}

TEST(Lora, ABaseInBlocksIsRefusedBeforeTheFirstStep) {
  for (const std::string type : {"q8", "q4"}) {
    const Tuned tuned;
    const std::string blocks = tuned.scratch / type;
    ASSERT_EQ(run_carousel("quantize " + tuned.model + " --type " + type + " --out " + blocks).status, 0);
    const std::string line = "train --model " + blocks + " --data " + (tuned.scratch / "text.txt") + " --out " +
                             (tuned.scratch / "out") + kHowLong + "--steps 1 --lora 4";
    const Ran ran = run_carousel(line);
    expect_one_line(ran, "mlstm_layer.q.weight\" is Q" + type.substr(1) + ", expected F32, F16 or BF16");
    EXPECT_TRUE(is_absent(tuned.scratch / "out/step-1"));
  }
}

TEST(Lora, MuonTakesTheAdaptersMatrices) {
  const Tuned tuned;
  ASSERT_EQ(tuned.train("out", "--steps 2 --lora 4 --optim muon --muon-lr 0").status, 0);
  for (const auto& [name, bytes] : tensors_of(tuned.scratch / "out/step-2/adapter_model.safetensors")) {
    if (!name.ends_with("lora_B.weight")) continue;
    EXPECT_EQ(bytes.find_first_not_of('\0', bytes.find(']') + 1), bytes.npos) << name;  // after type and shape
  }
}

TEST(Lora, WhatNoFileHoldsOrNoNumberCanIsRefused) {
  const Tuned tuned;
  write_file(tuned.scratch / "alone.json", kTinyXlstm);
  expect_one_line(
      run_carousel("train --model " + (tuned.scratch / "alone.json") + " --data " + (tuned.scratch / "text.txt") +
                   " --out " + (tuned.scratch / "x") + " --steps 1 --lora 4"),
      "expected a model folder for an adapter");
  expect_one_line(tuned.train("zero", "--steps 1 --lora 4:0"), "expected an alpha above 0");
  ASSERT_EQ(tuned.train("out", "--steps 2 --lora 4").status, 0);
  const std::string adapter = tuned.scratch / "out/step-2";
  const std::string merge = "merge " + tuned.model + " " + adapter + " --out " + (tuned.scratch / "merged");
  Json config = Json::parse(read_file(adapter + "/adapter_config.json"));
  config["init_lora_weights"] = "pissa";
  write_file(adapter + "/adapter_config.json", config.dump());
  expect_one_line(run_carousel(merge), "expected a method that leaves the base as it is");
  config["init_lora_weights"] = true;
  config["lora_alpha"] = 1e9;
  write_file(adapter + "/adapter_config.json", config.dump());
  expect_one_line(run_carousel(merge + " --dtype f16"), "is beyond what");
  EXPECT_FALSE(std::filesystem::exists(tuned.scratch / "merged/model.safetensors"));
}

TEST(Lora, AgreesWithTheReference) {
  const std::string folder = shared("golden/lora-xlstm");
  if (is_absent(folder)) GTEST_SKIP() << folder << " is absent";
  const Ran ran = run_carousel("verify --strict " + folder);
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
}

}  // namespace
}  // namespace carousel::cli
