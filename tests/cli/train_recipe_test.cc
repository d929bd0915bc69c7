// SPDX-License-Identifier: Apache-2.0
// The recipes of carousel train: optimisers, ramps, spikes, samples and the search for a rate, and that a resumed run
// ends with the bits of one that was not interrupted.
#include <algorithm>
#include <set>
#include <sstream>
#include <tuple>

#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

class TrainRecipe : public testing::Test {
 protected:
  TrainRecipe() {
    write_file(scratch / "config.json", kTinyMixed);
    std::string text;
    for (int i = 0; i < 80; ++i) text += "the cat number " + std::to_string(i % 7) + " sat on the mat.<|endoftext|>";
    write_file(scratch / "data.txt", text);
  }
  Ran train(const std::string& out, const std::string& more) const {
    return run_carousel("train -t 1 --model " + (scratch / "config.json") + " --data " + (scratch / "data.txt") +
                        " --out " + (scratch / out) + " --seq 32 --batch 2 " + more);
  }
  std::vector<Json> log_of(const std::string& out) const {
    std::vector<Json> lines;
    std::ifstream log(scratch / (out + "/log.jsonl"));
    for (std::string line; std::getline(log, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  double last_loss(const std::string& out) const {
    double loss = 0;
    for (const Json& line : log_of(out)) loss = line.contains("loss") ? line["loss"].get<double>() : loss;
    return loss;
  }
  Scratch scratch;
};

TEST_F(TrainRecipe, EveryOptimiserLearnsAndResumesWithTheSameBits) {
  for (const std::string optim : {"adamw --dropout 0.1 --decay paper", "adamw --dtype bf16 --dropout 0.1",
                                  "muon --dtype bf16", "sgd --lr 0.3", "muon --batch-ramp 1@0,3@10 --skip-spikes 2"}) {
    fs::remove_all(scratch / "run");
    const Ran ran = train("run", "--steps 30 --lr 1e-2 --save-every 10 --keep 9 --optim " + optim);
    ASSERT_EQ(ran.status, 0) << optim << ran.err;
    EXPECT_LT(last_loss("run"), 4) << optim;
    const auto expected = tensors_of(scratch / "run/step-30");
    const std::string state = read_file(scratch / "run/step-30/train.safetensors");
    fs::remove_all(scratch / "run/step-30");
    fs::remove_all(scratch / "run/step-20");
    const Ran resumed = run_carousel("train -t 2 --resume " + (scratch / "run"));
    ASSERT_EQ(resumed.status, 0) << optim << resumed.err;
    EXPECT_TRUE(tensors_of(scratch / "run/step-30") == expected) << optim;
    EXPECT_TRUE(read_file(scratch / "run/step-30/train.safetensors") == state) << optim;
  }
}

/// The losses of validation of a run, or those of its steps.
std::vector<double> curve(const std::vector<Json>& log, const std::string& key) {
  std::vector<double> found;
  for (const Json& line : log) {
    if (line.contains(key)) found.push_back(line[key].get<double>());
  }
  return found;
}

TEST_F(TrainRecipe, DropoutIsForTrainingAlone) {
  const std::string still =
      "--steps 3 --lr 1e-30 --valid-fraction 0.2 --eval-every 1 --sample-every 3 --sample-prompt the ";
  ASSERT_EQ(train("plain", still).status, 0);
  const Ran ran = train("dropped", still + "--dropout 0.5");
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_EQ(curve(log_of("plain"), "valid_loss"), curve(log_of("dropped"), "valid_loss"));
  EXPECT_NE(curve(log_of("plain"), "loss"), curve(log_of("dropped"), "loss"));
  std::vector<std::string> samples;
  for (const char* out : {"plain", "dropped"}) {
    for (const Json& line : log_of(out)) {
      if (line.contains("sample")) samples.push_back(line["sample"].get<std::string>());
    }
  }
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0], samples[1]);
}

// Over 60 steps, in which the loss falls from 5.7 to 0.5, the distance is 0.005 at most.
TEST_F(TrainRecipe, InBF16TheLossStaysNearThatInF32) {
  const std::string steps = "--steps 60 --lr 3e-3 --valid-fraction 0.2 --eval-every 20";
  ASSERT_EQ(train("f32", steps).status, 0);
  const Ran ran = train("bf16", steps + " --dtype bf16");
  ASSERT_EQ(ran.status, 0) << ran.err;
  for (const char* key : {"loss", "valid_loss"}) {
    const std::vector<double> f32 = curve(log_of("f32"), key), bf16 = curve(log_of("bf16"), key);
    ASSERT_EQ(f32.size(), bf16.size());
    EXPECT_NE(f32, bf16);
    for (size_t i = 0; i < f32.size(); ++i) EXPECT_NEAR(bf16[i], f32[i], 0.02) << key << " " << i;
  }
}

TEST_F(TrainRecipe, DecayTakesTheGroupsItNames) {
  // Without a gradient's share, sgd leaves what decays: the loss is that of a model whose table has not shrunk.
  const std::string decayed =
      "--steps 1 --optim sgd --lr 1 --warmup 0 --schedule constant --weight-decay 0.5 --clip 1e-30 ";
  ASSERT_EQ(train("all", decayed).status, 0);
  ASSERT_EQ(train("paper", decayed + "--decay paper").status, 0);
  ASSERT_EQ(train("none", decayed + "--weight-decay 0").status, 0);
  const auto all = tensors_of(scratch / "all/step-1"), paper = tensors_of(scratch / "paper/step-1"),
             none = tensors_of(scratch / "none/step-1");
  int64_t shrunk = 0;
  for (const auto& [name, bytes] : none) {
    const bool table = name.find("embed") != std::string::npos, head = name.find("lm_head") != std::string::npos;
    EXPECT_EQ(paper.at(name) == bytes, all.at(name) == bytes || (table && !head)) << name;
    shrunk += paper.at(name) != bytes;
  }
  EXPECT_GT(shrunk, 8);
}

TEST_F(TrainRecipe, SpikesAreSkippedAndLogged) {
  const Ran ran = train("run", "--steps 60 --lr 1e-6 --skip-spikes 0.01 --log-every 1000");
  ASSERT_EQ(ran.status, 0) << ran.err;
  int64_t skipped = 0;
  for (const Json& line : log_of("run")) skipped += line.contains("skipped") ? 1 : 0;
  EXPECT_GT(skipped, 0);
  EXPECT_NE(ran.err.find("is a spike above"), std::string::npos) << ran.err;
}

TEST_F(TrainRecipe, ARampTakesItsRows) {
  ASSERT_EQ(train("run", "--steps 4 --batch-ramp 1@0,3@2").status, 0);
  std::vector<int64_t> tokens;
  for (const Json& line : log_of("run")) tokens.push_back(line["tokens"].get<int64_t>());
  EXPECT_EQ(tokens, (std::vector<int64_t>{32, 64, 160, 256}));
}

TEST_F(TrainRecipe, SamplesArePrintedAndLogged) {
  const Ran ran = train("run", "--steps 4 --sample-every 2 --sample-prompt 'the cat' --sample-tokens 5");
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_NE(ran.err.find("step 2: the cat"), std::string::npos) << ran.err;
  int64_t samples = 0;
  for (const Json& line : log_of("run")) samples += line.contains("sample") ? 1 : 0;
  EXPECT_EQ(samples, 2);
}

TEST_F(TrainRecipe, TheSearchForARatePrintsOneAndKeepsNothing) {
  const Ran ran = train("run", "--find-lr");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const double rate = std::strtod(ran.out.c_str(), nullptr);
  EXPECT_GT(rate, 1e-6) << ran.out;
  EXPECT_LT(rate, 1) << ran.out;
  EXPECT_FALSE(fs::exists(scratch / "run/train.json"));
  EXPECT_EQ(train("run", "--steps 1").status, 0);
}

TEST_F(TrainRecipe, WhatIsNoRunLeavesTheFolderAsItWas) {
  for (const std::string flags : {"--dry-run --steps 3", "--find-lr"}) {
    ASSERT_EQ(train("new/run", flags).status, 0) << flags;
    EXPECT_FALSE(fs::exists(scratch / "new")) << flags;
  }
  ASSERT_EQ(train("run", "--steps 1").status, 0);
  const auto names = [&] {
    std::set<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(scratch / "run")) found.insert(entry.path());
    return found;
  };
  const std::set<std::string> before = names();
  ASSERT_EQ(run_carousel("train -t 1 --resume " + (scratch / "run") + " --dry-run --valid-fraction 0.2").status, 0);
  EXPECT_EQ(names(), before);
}

TEST_F(TrainRecipe, OptionsThatWouldHaveNoEffectAreRefused) {
  write_file(scratch / "cfc.json", R"({"model_type": "cfc", "input_size": 1, "units": 1, "mode": "default"})");
  write_file(scratch / "x.csv", "1\n2\n3\n");
  const std::string tokens =
      "--model " + (scratch / "config.json") + " --data " + (scratch / "data.txt") + " --seq 32 --steps 1 --out ";
  const std::string features = "--model " + (scratch / "cfc.json") + " --data " + (scratch / "x.csv") + " --target " +
                               (scratch / "x.csv") + " --steps 1 --out ";
  const std::tuple<std::string, std::string, std::string> refusals[] = {
      {tokens, "--target x.csv", "--target: got a value, expected none: the model reads tokens"},
      {tokens, "--times x.csv", "--times: got a value, expected none: the model reads tokens"},
      {tokens, "--valid-target x.csv", "--valid-target: got a value, expected none"},
      {tokens, "--key text", "--key: got a value, expected none: no file of the data is .jsonl"},
      {tokens, "--ids u16", "--ids: got a value, expected none: no file of the data is .bin or .npy"},
      {tokens, "--sample-prompt the", "--sample-prompt: got it without --sample-every"},
      {features, "--key text", "--key: got a value, expected none: the model reads features"},
      {features, "--ids u16", "--ids: got a value, expected none: the model reads features"},
      {features, "--sample-every 1", "--sample-every: got a value, expected none: the model reads features"},
      {features, "--valid-times x.csv", "--valid-times: got a value, expected none: there is no --valid"},
  };
  for (const auto& [run, flags, message] : refusals) {
    const Ran ran = run_carousel("train -t 1 " + run + (scratch / "out") + " " + flags);
    EXPECT_EQ(ran.status, 2) << flags << ran.err;
    EXPECT_NE(ran.err.find(message), std::string::npos) << flags << ran.err;
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  }
}

/// The mean over the numbers of two .csv.
double squared_error(std::string a, std::string b) {
  for (std::string* text : {&a, &b}) std::replace(text->begin(), text->end(), ',', ' ');
  std::istringstream of_a(a), of_b(b);
  double x = 0, y = 0, sum = 0;
  int64_t count = 0;
  for (; of_a >> x && of_b >> y; ++count) sum += (x - y) * (x - y);
  return sum / static_cast<double>(count);
}

TEST_F(TrainRecipe, ProfilesThatRoundNothingAreTrained) {
  write_file(scratch / "ltc.json", R"({"model_type": "ltc", "input_size": 1, "units": 4})");
  write_file(scratch / "x.csv", "1\n2\n3\n");
  write_file(scratch / "y.csv", "1,0,0,0\n0,0,0,0\n1,0,0,0\n");
  const std::string line = "train -t 1 --model " + (scratch / "ltc.json") + " --data " + (scratch / "x.csv") +
                           " --target " + (scratch / "y.csv") + " --seed 5 --steps 1 --optim sgd --lr 1e-60 --profile ";
  std::map<std::string, double> losses;
  for (const std::string name : {"native", "torch-f32", "ncps-torch", "ncps-tf"}) {
    const Ran ran = run_carousel(line + name + " --out " + (scratch / name));
    ASSERT_EQ(ran.status, 0) << ran.err;
    losses[name] = last_loss(name);
    // Fresh parameters are those that `init` draws.
    const std::string drawn = scratch / ("drawn-" + name);
    const std::string init =
        "init " + (scratch / "ltc.json") + " --seed 5 --dtype f32 --profile " + name + " --out " + drawn;
    ASSERT_EQ(run_carousel(init).status, 0);
    EXPECT_TRUE(tensors_of(drawn) == tensors_of(scratch / (name + "/step-1"))) << name;
    const Ran predicted = run_carousel("predict " + drawn + " --profile " + name + " --input " + (scratch / "x.csv"));
    ASSERT_EQ(predicted.status, 0) << predicted.err;
    EXPECT_NEAR(losses[name], squared_error(predicted.out, read_file(scratch / "y.csv")), 1e-6) << name;
    ASSERT_EQ(train("lm-" + name, "--steps 3 --profile " + name).status, 0);
  }
  EXPECT_EQ(losses["native"], losses["torch-f32"]);
  EXPECT_NE(losses["native"], losses["ncps-tf"]);
  EXPECT_TRUE(tensors_of(scratch / "lm-native/step-3") == tensors_of(scratch / "lm-torch-f32/step-3"));
  for (const std::string name : {"torch-bf16", "mlx"}) {
    const Ran ran = run_carousel(line + name + " --out " + (scratch / name));
    EXPECT_EQ(ran.status, 2) << ran.err;
    EXPECT_NE(ran.err.find("--profile: \"" + name + "\" rounds"), std::string::npos) << ran.err;
  }
}

// Under a lower bound a weight that a step would take below stays on it, so that it can leave it again.
TEST_F(TrainRecipe, BoundsOfAProfileHoldAfterEveryStep) {
  write_file(scratch / "ltc.json", R"({"model_type": "ltc", "input_size": 1, "units": 4})");
  write_file(scratch / "x.csv", "1\n2\n3\n");
  write_file(scratch / "y.csv", "1,0,0,0\n0,0,0,0\n1,0,0,0\n");
  const Ran ran =
      run_carousel("train -t 1 --model " + (scratch / "ltc.json") + " --data " + (scratch / "x.csv") + " --target " +
                   (scratch / "y.csv") + " --steps 20 --lr 0.5 --profile ncps-tf --out " + (scratch / "run"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  const auto checkpoint = formats::Checkpoint::open(scratch / "run/step-20");
  int64_t held = 0;
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    const std::string name = entry->name.substr(entry->name.rfind('.') + 1);
    const float least = name == "cm" ? 1e-6f : 1e-5f;
    if (name != "cm" && name != "gleak" && name != "w" && name != "sensory_w") continue;
    const Tensor values = entry->load();
    for (int64_t i = 0; i < values.count(); ++i) {
      EXPECT_GE(values.f32()[i], least) << name;
      held += values.f32()[i] == least;
    }
  }
  EXPECT_GT(held, 0);
}

TEST_F(TrainRecipe, AProfileInAFileIsKeptByItsWholePath) {
  write_file(scratch / "bounds.json", R"({"name": "bounds", "ltc": {"w": [0.001, null]}})");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(scratch / ".");
  EXPECT_EQ(train("run", "--steps 1 --profile bounds.json").status, 0);
  std::filesystem::current_path(before);
  const Json kept = parse_json(read_file(scratch / "run/train.json"), "train.json");
  EXPECT_EQ(std::filesystem::path(kept.at("profile").get<std::string>()).is_absolute(), true) << kept.at("profile");
  EXPECT_EQ(run_carousel("train --resume " + (scratch / "run") + " --steps 2").status, 0);
}

TEST_F(TrainRecipe, RoundingProfilesAndRampsOfCarriedStatesAreRefusedInOneLine) {
  const std::pair<std::string, std::string> refusals[] = {
      {"--steps 1 --profile torch-bf16", "--profile: \"torch-bf16\" rounds"},
      {"--steps 1 --profile mlx", "(activations \"bf16\", norm.cast \"before_weight\", parameters \"bf16\")"},
      {"--steps 1 --batch-ramp 8", "--batch-ramp: got \"8\""},
      {"--steps 1 --batch-ramp 8@0 --carry-state", "--batch-ramp: not with --carry-state"},
      {"--steps 1 --optim lion", "--optim: got \"lion\""},
  };
  for (const auto& [arguments, message] : refusals) {
    const Ran ran = train("run", arguments);
    EXPECT_NE(ran.status, 0) << arguments;
    EXPECT_NE(ran.err.find(message), std::string::npos) << ran.err;
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  }
}

TEST_F(TrainRecipe, FeaturesAreValidatedOnFilesOfTheirOwn) {
  write_file(scratch / "cfc.json", R"({"model_type": "cfc", "input_size": 1, "units": 6, "mode": "default"})");
  std::string x, y;
  for (int t = 0; t < 40; ++t) {
    x += std::to_string(t % 5) + "\n";
    y += std::string(t % 2 == 0 ? "0.5" : "-0.5") + ",0,0,0,0,0\n";
  }
  for (const std::string name : {"", "valid_"}) {
    write_file(scratch / (name + "x.csv"), x);
    write_file(scratch / (name + "y.csv"), y);
  }
  const std::string common = "train -t 1 --model " + (scratch / "cfc.json") + " --data " + (scratch / "x.csv") +
                             " --target " + (scratch / "y.csv") + " --steps 4 --batch 1 --valid " +
                             (scratch / "valid_x.csv") + " --out ";
  const Ran ran =
      run_carousel(common + (scratch / "run") + " --eval-every 2 --valid-target " + (scratch / "valid_y.csv"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  int64_t validations = 0;
  for (const Json& line : log_of("run")) validations += line.contains("valid_loss") ? 1 : 0;
  EXPECT_EQ(validations, 2);
  const Ran without = run_carousel(common + (scratch / "other"));
  EXPECT_EQ(without.status, 2);
  EXPECT_NE(without.err.find("expected a --valid-target for every --valid"), std::string::npos) << without.err;
}

TEST_F(TrainRecipe, RecomputedCellsHaveTheBitsOfKeptOnes) {
  write_file(scratch / "cfc.json", R"({"model_type": "cfc", "input_size": 1, "units": 6, "mode": "default"})");
  write_file(scratch / "ltc.json", R"({"model_type": "ltc", "input_size": 1, "units": 6})");
  std::string x, y;
  for (int t = 0; t < 40; ++t) {
    x += std::to_string(t % 5) + "\n";
    y += std::string(t % 2 == 0 ? "0.5" : "-0.5") + ",0,0,0,0,0\n";
  }
  write_file(scratch / "x.csv", x);
  write_file(scratch / "y.csv", y);
  for (const std::string name : {"cfc", "ltc"}) {
    const std::string model = scratch / (name + ".json");
    const std::string common = "train -t 1 --model " + model + " --data " + (scratch / "x.csv") + " --target " +
                               (scratch / "y.csv") + " --steps 4 --batch 2 --seq 16 --carry-state --out ";
    const Ran kept = run_carousel(common + (scratch / (name + "-kept")));
    ASSERT_EQ(kept.status, 0) << kept.err;
    const Ran again = run_carousel(common + (scratch / (name + "-again")) + " --recompute");
    ASSERT_EQ(again.status, 0) << again.err;
    EXPECT_EQ(curve(log_of(name + "-kept"), "loss"), curve(log_of(name + "-again"), "loss")) << name;
    EXPECT_TRUE(tensors_of(scratch / (name + "-kept/step-4")) == tensors_of(scratch / (name + "-again/step-4")))
        << name;
    const Ran predicted = run_carousel("info " + model + " --train --recompute");
    EXPECT_EQ(predicted.status, 0) << predicted.err;
  }
}

TEST_F(TrainRecipe, AWrongTypeInAFileOfOptionsNamesTheFile) {
  const std::tuple<std::string, std::string, int> refusals[] = {
      {R"({"steps": true})", "options.json: --steps: got \"true\"", 2},
      {R"({"steps": [3]})", "options.json: \"steps\": got [3], expected one value", 1},
      {R"({"steps": [3, 4]})", "options.json: \"steps\": got [3,4], expected one value", 1},
      {R"({"carry-state": "perhaps"})", "options.json: --carry-state: got \"perhaps\", expected true or false", 1},
      {R"({"lora": ""})", "options.json: --lora: got \"\"", 2},
  };
  for (const auto& [text, message, status] : refusals) {
    write_file(scratch / "options.json", text);
    const Ran ran = run_carousel("train --config " + (scratch / "options.json"));
    EXPECT_EQ(ran.status, status) << text << ran.err;
    EXPECT_NE(ran.err.find(message), std::string::npos) << text << ran.err;
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  }
}

TEST_F(TrainRecipe, AnEmptyListInAFileOfOptionsIsNamed) {
  for (const char* key : {"steps", "model", "optim", "threads"}) {
    write_file(scratch / "options.json", std::string("{\"") + key + "\": []}");
    const Ran ran = run_carousel("train --config " + (scratch / "options.json"));
    EXPECT_EQ(ran.status, 1) << key;
    EXPECT_NE(ran.err.find(std::string("options.json: \"") + key + "\": got [], expected one value or more"),
              std::string::npos)
        << ran.err;
  }
}

}  // namespace
}  // namespace carousel::cli
