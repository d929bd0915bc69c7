// SPDX-License-Identifier: Apache-2.0
// carousel train as a user runs it: a model learns, a run that is killed anywhere and resumed ends with the bits of one
// that was not, and what cannot be run is refused in one line.
#include <sys/resource.h>

#include <random>

#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "tests/cli/process.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kKills = kSanitized || kEmulated ? 4 : 100;

/// Documents that are easy to learn.
std::string corpus() {
  std::string text;
  for (int i = 0; i < 60; ++i) {
    text += "the cat number " + std::to_string(i) + " sat on the mat and looked at the moon.<|endoftext|>";
  }
  return text;
}

class Train : public testing::Test {
 protected:
  Train() {
    write_file(scratch / "config.json", kTinyMixed);
    write_file(scratch / "data.txt", corpus());
  }
  std::vector<std::string> arguments(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> all{"train",
                                 "--model",
                                 scratch / "config.json",
                                 "--data",
                                 scratch / "data.txt",
                                 "--out",
                                 out,
                                 "-t",
                                 "1",
                                 "--seq",
                                 "48",
                                 "--batch",
                                 "3"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Ran run(const std::vector<std::string>& words) const { return run_words(words); }
  Scratch scratch;
};

/// step -> loss, in the order of the lines.
std::vector<std::pair<int64_t, double>> losses(const std::string& out) {
  std::vector<std::pair<int64_t, double>> found;
  std::ifstream log(out + "/log.jsonl");
  for (std::string line; std::getline(log, line);) {
    const Json record = Json::parse(line);
    if (record.contains("loss")) found.emplace_back(record["step"].get<int64_t>(), record["loss"].get<double>());
  }
  return found;
}

/// Every line of the log, but for its rate, which the clock decides.
std::vector<Json> lines_of_log(const std::string& out) {
  std::vector<Json> found;
  std::ifstream log(out + "/log.jsonl");
  for (std::string line; std::getline(log, line);) {
    found.push_back(Json::parse(line));
    found.back().erase("tokens_per_second");
  }
  return found;
}

TEST_F(Train, AModelLearnsAndIsAModelForTheOtherCommands) {
  const std::string out = scratch / "run";
  const Ran trained =
      run(arguments(out, {"--steps", "40", "--lr", "1e-2", "--valid-fraction", "0.2", "--save-every", "15"}));
  ASSERT_EQ(trained.status, 0) << trained.err;
  const auto curve = losses(out);
  ASSERT_EQ(curve.size(), 40u);
  for (size_t i = 0; i < curve.size(); ++i) EXPECT_EQ(curve[i].first, static_cast<int64_t>(i) + 1);
  EXPECT_GT(curve.front().second, 4.5);
  EXPECT_LT(curve.back().second, 2.5);
  EXPECT_FALSE(fs::exists(out + "/step-15"));  // two are kept
  EXPECT_TRUE(fs::exists(out + "/step-30"));
  EXPECT_NE(trained.err.find("validation loss"), std::string::npos) << trained.err;
  const Ran evaluated = run_carousel("eval " + out + "/step-40 --text " + (scratch / "data.txt") + " --json");
  ASSERT_EQ(evaluated.status, 0) << evaluated.err;
  EXPECT_LT(Json::parse(evaluated.out)["text"]["nats_per_token"].get<double>(), 2.6);
}

TEST_F(Train, MicroBatchesAndThreadsChangeNoBit) {
  for (const std::string dtype : {"f32", "bf16"}) {
    const std::vector<std::string> steps{"--steps", "6", "--carry-state", "--dropout", "0.1", "--dtype", dtype};
    const std::string whole = scratch / ("whole-" + dtype), parts = scratch / ("parts-" + dtype);
    ASSERT_EQ(run(arguments(whole, steps)).status, 0);
    std::vector<std::string> other = arguments(parts, steps);
    other.insert(other.end(), {"--micro-batch", "1", "--recompute"});
    other[8] = "3";  // threads
    const Ran ran = run(other);
    ASSERT_EQ(ran.status, 0) << ran.err;
    EXPECT_TRUE(tensors_of(whole + "/step-6") == tensors_of(parts + "/step-6")) << dtype;
    EXPECT_EQ(losses(whole), losses(parts)) << dtype;
  }
}

// 100 processes are killed at any moment; those that ended before their signal came do not count. Each resumed run goes
// on from the last checkpoint. Parameters, moments, counters and carried states are compared by the bytes of their
// files.
TEST_F(Train, AKilledRunEndsWithTheBitsOfOneThatWasNot) {
  const std::vector<std::string> steps{"--steps",       "60",           "--save-every", "4",
                                       "--carry-state", "--dropout",    "0.1",          "--valid-fraction",
                                       "0.1",           "--eval-every", "10",           "--save-best"};
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(run(arguments(scratch / "whole", steps)).status, 0);
  const double whole_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  const std::string whole = scratch / "whole";
  const auto expected = tensors_of(whole + "/step-60");
  const std::string moments = read_file(whole + "/step-60/train.safetensors");
  std::mt19937 random(3);
  int kills = 0;
  for (int round = 0; kills < kKills; ++round) {
    const std::string out = scratch / ("run" + std::to_string(round));
    std::vector<std::string> words = arguments(out, steps);
    for (bool done = false; !done;) {
      Process process(words);
      const double after = whole_us * std::uniform_real_distribution<double>(0, 0.5)(random);
      std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int64_t>(after)));
      if (kills < kKills) process.send(SIGKILL);
      const int status = process.wait();
      kills += process.ended_by() == SIGKILL ? 1 : 0;
      done = status == 0;
      ASSERT_TRUE(done || process.ended_by() == SIGKILL) << process.err();
      if (fs::exists(out + "/train.json")) words = {"train", "--resume", out, "-t", "1"};
    }
    EXPECT_TRUE(tensors_of(out + "/step-60") == expected);
    EXPECT_TRUE(read_file(out + "/step-60/train.safetensors") == moments);
    EXPECT_EQ(lines_of_log(out), lines_of_log(whole));
  }
  EXPECT_EQ(kills, kKills);
}

// Whoever reads the folder meanwhile (a loader, a copy) finds checkpoints whole.
TEST_F(Train, ACheckpointAppearsWhole) {
  const std::string out = scratch / "run";
  Process process(arguments(out, {"--steps", "200", "--save-every", "1", "--keep", "400"}));
  for (int64_t step = 1; step <= 200;) {
    const std::string folder = out + "/step-" + std::to_string(step);
    ASSERT_FALSE(process.has_ended() && !fs::exists(folder)) << process.err();
    if (!fs::exists(folder)) continue;
    for (const char* name : {"config.json", "model.safetensors", "train.safetensors"}) {
      EXPECT_TRUE(fs::exists(folder + "/" + name)) << folder << " " << name;
    }
    EXPECT_FALSE(fs::exists(folder + "/.carousel.partial")) << folder;
    ++step;
  }
  EXPECT_EQ(process.wait(), 0) << process.err();
}

TEST_F(Train, AnInterruptSavesAndCanBeResumed) {
  const std::string out = scratch / "run";
  const std::vector<std::string> steps{"--steps", "400"};
  ASSERT_EQ(run(arguments(scratch / "whole", steps)).status, 0);
  Process process(arguments(out, steps));
  ASSERT_TRUE(comes_true([&] { return fs::exists(out + "/log.jsonl") && fs::file_size(out + "/log.jsonl") > 200; }));
  process.send(SIGINT);
  EXPECT_EQ(process.wait(), 130) << process.err();
  EXPECT_NE(process.err().find("interrupted after step"), std::string::npos) << process.err();
  const Ran resumed = run_carousel("train --resume " + out + " -t 1");
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_TRUE(tensors_of(out + "/step-400") == tensors_of(scratch / "whole/step-400"));
  EXPECT_EQ(losses(out), losses(scratch / "whole"));
}

TEST_F(Train, TwoRunsInOneFolderAreRefused) {
  const std::string out = scratch / "run";
  Process first(arguments(out, {"--steps", "100000"}));
  ASSERT_TRUE(comes_true([&] { return fs::exists(out + "/log.jsonl") && fs::file_size(out + "/log.jsonl") > 0; }));
  const Ran second = run_carousel("train --resume " + out + " -t 1");
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.err.find("another run is training here"), std::string::npos) << second.err;
}

TEST_F(Train, OptionsComeFromAFileAndFlagsWin) {
  write_file(scratch / "options.json", R"({"steps": 3, "lr": 0.004, "seq": 32, "batch": 2})");
  const std::string out = scratch / "run";
  const Ran ran =
      run_carousel("train --config " + (scratch / "options.json") + " --model " + (scratch / "config.json") +
                   " --data " + (scratch / "data.txt") + " --batch 1 -t 1 --out " + out);
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json kept = Json::parse(read_file(out + "/train.json"));
  EXPECT_EQ(kept["steps"], "3");
  EXPECT_EQ(kept["lr"], "0.004");
  EXPECT_EQ(kept["batch"], "1");
}

TEST_F(Train, WhatFlagsChangeInAResumedRunIsKept) {
  const std::string out = scratch / "run";
  ASSERT_EQ(run(arguments(out, {"--steps", "2"})).status, 0);
  const Ran longer = run_carousel("train --resume " + out + " -t 1 --steps 5");
  ASSERT_EQ(longer.status, 0) << longer.err;
  EXPECT_TRUE(fs::exists(out + "/step-5"));
  EXPECT_EQ(Json::parse(read_file(out + "/train.json"))["steps"], "5");
}

struct Refusal {
  std::string arguments, message;
  int status;
};

TEST_F(Train, WhatCannotBeRunIsRefusedInOneLine) {
  write_file(scratch / "bad.json", R"({"stepz": 3})");
  write_file(scratch / "empty.txt", "");
  write_file(scratch / "unlearnt.jsonl", R"({"prompt": "abc", "completion": ""})");
  fs::create_directory(scratch / "bare");
  write_file(scratch / "bare/config.json", kTinyMixed);
  write_file(scratch / "nan.json", R"({"lr": 1e30, "clip": 0, "warmup": "0"})");
  const std::string model = "--model " + (scratch / "config.json"), data = " --data " + (scratch / "data.txt");
  const std::string out = " --out " + (scratch / "out"), steps = " --steps 3";
  const Refusal refusals[] = {
      {data + out + steps, "--model is missing", 2},
      {model + out + steps, "--data is missing", 2},
      {model + data + steps, "--out is missing", 2},
      {"--model " + (scratch / "bare") + data + out + steps, "bare/config.json draws fresh ones", 1},
      {model + data + out, "got 0 of --steps, --tokens and --epochs", 2},
      {model + data + out + steps + " --epochs 1", "got 2 of --steps, --tokens and --epochs", 2},
      {model + data + out + steps + " --betas .9", "--betas: got \".9\"", 2},
      {model + data + out + steps + " --betas .9,.99999999", "--betas: got \".9,.99999999\", expected numbers below 1",
       2},
      {model + data + out + steps + " --lora ''", "--lora: got \"\", expected R or R:ALPHA", 2},
      {model + data + out + steps + " --eps 0", "--eps: got 0, expected a number above", 2},
      {model + data + out + steps + " --sample-every 1", "prompt is empty", 1},
      {model + " --data " + (scratch / "unlearnt.jsonl") + out + steps, "--data: no target counts", 1},
      {model + data + out + steps + " --valid " + (scratch / "unlearnt.jsonl"), "--eval-rows: no target counts", 1},
      {model + data + out + steps + " --batch 0", "--batch: got \"0\"", 2},
      {model + data + out + steps + " --dropout 1", "--dropout: got 1, expected a number below 1", 2},
      {model + data + out + steps + " --decay some", "--decay: got \"some\"", 2},
      {model + data + out + steps + " --device cuda", "--device: got \"cuda\", expected cpu", 2},
      {model + data + out + steps + " --dtype f16", "--dtype: got \"f16\"", 2},
      {model + data + out + steps + " --schedule square", "--schedule: got \"square\"", 2},
      {model + " --data " + (scratch / "none.txt") + out + steps, "none.txt", 1},
      {model + " --data " + (scratch / "empty.txt") + out + steps, "empty.txt", 1},
      {model + data + out + steps + " --save-best", "--save-best: no validation data", 2},
      {model + data + out + steps + " --eval-every 1", "--eval-every: no validation data", 2},
      {"--config " + (scratch / "bad.json") + " " + model + data + out, "\"stepz\" is no option of train", 1},
      {"--resume " + (scratch / "nowhere"), "no run to go on with", 1},
      {"--resume " + (scratch / "nowhere") + out, "--out: not with --resume", 2},
  };
  for (const Refusal& refusal : refusals) {
    const Ran ran = run_carousel("train -t 1 " + refusal.arguments);
    EXPECT_EQ(ran.status, refusal.status) << refusal.arguments << "\n" << ran.err;
    EXPECT_NE(ran.err.find(refusal.message), std::string::npos) << refusal.arguments << "\n" << ran.err;
    const size_t line = ran.err.rfind("carousel: error: ");
    ASSERT_NE(line, std::string::npos) << ran.err;
    EXPECT_EQ(ran.err.find('\n', line), ran.err.size() - 1) << ran.err;
    EXPECT_FALSE(fs::exists(scratch / "out/.running")) << refusal.arguments;
  }
}

TEST_F(Train, WhatStandsBesideTheModelOutlivesTheCheckpointItCameFrom) {
  write_file(scratch / "generation_config.json", R"({"eos_token_id": 5})");
  const std::string out = scratch / "run";
  const Ran begun = run(arguments(out, {"--steps", "2", "--save-every", "1", "--keep", "1"}));
  ASSERT_EQ(begun.status, 0) << begun.err;
  const Ran resumed = run_carousel("train --resume " + out + " -t 1 --steps 5");
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_FALSE(fs::exists(out + "/step-2"));
  EXPECT_EQ(read_file(out + "/step-5/generation_config.json"), R"({"eos_token_id": 5})");
}

TEST_F(Train, ARunWithinItsFolderOfDataGoesOn) {
  fs::create_directory(scratch / "data");
  fs::rename(scratch / "data.txt", scratch / "data/data.txt");
  const std::string out = scratch / "data/run";
  const std::string line = "train --model " + (scratch / "config.json") + " --data " + (scratch / "data") + " --out " +
                           out + " -t 1 --seq 48 --batch 3 --steps 2";
  ASSERT_EQ(run_carousel(line).status, 0);
  const Ran resumed = run_carousel("train --resume " + out + " -t 1 --steps 3");
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_TRUE(fs::exists(out + "/step-3"));
}

TEST_F(Train, EpochsTakeAWarmupOfSteps) {
  const Ran ran = run(arguments(scratch / "run", {"--epochs", "2", "--warmup", "5", "--dry-run"}));
  EXPECT_EQ(ran.status, 0) << ran.err;
  const Ran found = run(arguments(scratch / "rate", {"--steps", "10000", "--warmup", "500", "--find-lr", "--dry-run"}));
  EXPECT_EQ(found.status, 0) << found.err;
}

TEST_F(Train, ALossThatIsNotFiniteEndsTheRunAndKeepsTheLastCheckpoint) {
  const std::string out = scratch / "run";
  const Ran ran =
      run(arguments(out, {"--steps", "50", "--lr", "1e30", "--clip", "0", "--save-every", "1", "--warmup", "0"}));
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("expected finite numbers"), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("data.txt"), std::string::npos) << ran.err;
}

/// Runs under a limit of the size of files, which stands for a full disk: writing fails in the same place.
Ran run_limited(const std::vector<std::string>& words, int kilobytes) {
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit soft{static_cast<rlim_t>(kilobytes) << 10, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &soft);
  Process process(words);
  setrlimit(RLIMIT_FSIZE, &before);
  Ran ran;
  ran.status = process.wait();
  ran.err = process.err();
  return ran;
}

TEST_F(Train, AFullDiskIsSaidWithTheStepAndLeavesTheLastCheckpoint) {
  const std::string out = scratch / "run", whole = scratch / "whole";
  // A rate that does not depend on the number of steps.
  const std::vector<std::string> recipe{"--save-every", "5", "--schedule", "constant", "--warmup", "0", "--steps"};
  std::vector<std::string> all = recipe, some = recipe;
  all.push_back("80");
  some.push_back("5");
  ASSERT_EQ(run(arguments(whole, all)).status, 0);
  ASSERT_EQ(run(arguments(out, some)).status, 0);
  // The log is full first: its lines grow, a checkpoint does not begin to.
  const auto log_kb = static_cast<int>(fs::file_size(out + "/log.jsonl") >> 10);
  const std::vector<std::string> longer{"train", "--resume", out, "-t", "1", "--steps", "80", "--save-every", "1000"};
  const Ran logged = run_limited(longer, log_kb + 4);
  EXPECT_EQ(logged.status, 1);
  EXPECT_NE(logged.err.find("carousel: error: step "), std::string::npos) << logged.err;
  EXPECT_NE(logged.err.find("cannot write"), std::string::npos) << logged.err;
  // Then a checkpoint: the weights alone are larger than the limit.
  const Ran saved = run_limited({"train", "--resume", out, "-t", "1", "--steps", "80", "--save-every", "5"}, 64);
  EXPECT_EQ(saved.status, 1);
  EXPECT_NE(saved.err.find("carousel: error: step 10: "), std::string::npos) << saved.err;
  EXPECT_NE(saved.err.find("model.safetensors: cannot write: File too large"), std::string::npos) << saved.err;
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(name == "step-5" || name.find("step-") == name.npos) << name;
  }
  const Ran resumed = run_carousel("train --resume " + out + " -t 1");
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_TRUE(tensors_of(out + "/step-80") == tensors_of(whole + "/step-80"));
  EXPECT_EQ(losses(out), losses(whole));
}

TEST_F(Train, DataThatVanishesIsNamedWithTheStep) {
  const std::string out = scratch / "run";
  std::string text;
  for (int i = 0; i < 100; ++i) text += corpus();  // more than the pages that are read at once
  write_file(scratch / "data.txt", text);
  Process process(arguments(out, {"--steps", "1000000", "--save-every", "20"}));
  ASSERT_TRUE(comes_true([&] { return fs::exists(out + "/step-20"); }));
  for (const auto& entry : fs::directory_iterator(out + "/cache")) fs::resize_file(entry.path(), 0);
  EXPECT_EQ(process.wait(), 1);
  const std::string err = process.err(), line = err.substr(err.rfind("carousel: error: "));
  EXPECT_TRUE(line.starts_with("carousel: error: step ")) << line;
  EXPECT_NE(line.find(out + "/cache/"), std::string::npos) << line;
  EXPECT_NE(line.find("a mapped file became shorter"), std::string::npos) << line;
}

TEST_F(Train, CheckpointsThatFindNoRoomAreRefusedBeforeTheFirstStep) {
  write_file(scratch / "config.json", R"({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 256,
    "num_hidden_layers": 2, "num_heads": 2, "tie_word_embeddings": false})");
  const std::string out = scratch / "run";
  const Ran ran = run(arguments(out, {"--steps", "1", "--keep", "1048576"}));  // some 30 TiB
  if (ran.status == 0) GTEST_SKIP() << "a disk of many terabytes";
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find(out + ": "), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("for 1048577 checkpoints"), std::string::npos) << ran.err;
  EXPECT_FALSE(fs::exists(out + "/train.json"));
}

}  // namespace
}  // namespace carousel::cli
