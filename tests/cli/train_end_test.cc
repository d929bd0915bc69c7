// SPDX-License-Identifier: Apache-2.0
// How runs of carousel train end and are resumed: signals while nothing is trained and while validation is long,
// checkpoints that a killed run had no time to remove, steps without a target, and sizes that do not fit.
#include <algorithm>

#include "carousel/core/json.h"
#include "tests/cli/process.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHuge = R"({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 65536,
  "num_hidden_layers": 400, "num_heads": 8, "tie_word_embeddings": false})";  // some 20 trillion parameters

std::string text_of(size_t bytes) {
  const std::string line = "the cat sat on the mat and looked at the moon. ";
  std::string text;
  while (text.size() < bytes) text += line;
  return text;
}

class TrainEnd : public testing::Test {
 protected:
  TrainEnd() {
    write_file(scratch / "config.json", kTinyXlstm);
    write_file(scratch / "data.txt", text_of(20000));
  }
  std::vector<std::string> arguments(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> all{"train", "--model", scratch / "config.json", "--out", scratch / out, "-t", "1"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Ran run(const std::vector<std::string>& words) const { return run_words(words); }
  /// Every line of the log, but for its rate, which the clock decides.
  std::vector<Json> log_of(const std::string& out) const {
    std::vector<Json> lines;
    std::ifstream log(scratch / (out + "/log.jsonl"));
    for (std::string line; std::getline(log, line);) {
      lines.push_back(Json::parse(line));
      lines.back().erase("tokens_per_second");
    }
    return lines;
  }
  std::vector<std::string> checkpoints(const std::string& out) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(scratch / out)) {
      if (entry.path().filename().string().starts_with("step-")) found.push_back(entry.path().filename());
    }
    std::sort(found.begin(), found.end());
    return found;
  }
  Scratch scratch;
};

/// Whether a folder of a run has a cache of tokens, finished or not.
bool has_cache(const std::string& out, const std::string& ending) {
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(out + "/cache", none)) {
    if (entry.path().string().ends_with(ending)) return true;
  }
  return false;
}

TEST_F(TrainEnd, ASignalWhileDataIsReadForNoRunLeavesNothing) {
  write_file(scratch / "long.txt", text_of(size_t{kEmulated ? 4 : 48} << 20));
  for (const int signal : {SIGINT, SIGTERM}) {
    for (const std::string flag : {"--dry-run", "--find-lr"}) {
      Process process(arguments("new/run", {"--data", scratch / "long.txt", "--steps", "1", flag}));
      ASSERT_TRUE(comes_true([&] { return has_cache(scratch / "new/run", ".partial"); })) << process.err();
      process.send(signal);
      EXPECT_EQ(process.wait(), 130) << process.err();
      EXPECT_FALSE(fs::exists(scratch / "new")) << flag;
      EXPECT_EQ(process.err().substr(process.err().rfind("carousel: ")), "carousel: error: interrupted\n");
    }
  }
}

TEST_F(TrainEnd, ASignalInALongStepOfTheSearchForARateLeavesNothing) {
  const std::vector<std::string> flags{"--data", scratch / "data.txt", "--find-lr", "--seq", "4000", "--batch", "64"};
  Process process(arguments("new/run", flags));
  ASSERT_TRUE(comes_true([&] { return has_cache(scratch / "new/run", ".ids"); })) << process.err();
  process.send(SIGINT);
  EXPECT_EQ(process.wait(), 130) << process.err();
  EXPECT_FALSE(fs::exists(scratch / "new"));
}

TEST_F(TrainEnd, WhatIsKeptHoldsFromTheBeginningOfAResumedRun) {
  const std::vector<std::string> steps{"--data", scratch / "data.txt", "--seq", "32",    "--batch", "2", "--steps",
                                       "3",      "--save-every",       "1",     "--keep"};
  std::vector<std::string> all = arguments("run", steps);
  all.push_back("9");
  ASSERT_EQ(run(all).status, 0);
  ASSERT_EQ(checkpoints("run").size(), 3u);
  const Ran resumed = run_carousel("train -t 1 --resume " + (scratch / "run") + " --keep 2");  // as if killed before
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(checkpoints("run"), (std::vector<std::string>{"step-2", "step-3"}));
}

TEST_F(TrainEnd, AResumedRunThatIsAnotherIsRefused) {
  const Ran begun = run(arguments("run", {"--data", scratch / "data.txt", "--steps", "2", "--save-every", "1"}));
  ASSERT_EQ(begun.status, 0) << begun.err;
  fs::copy(scratch / "config.json", scratch / "other.json");
  const std::string out = scratch / "run", resume = "train -t 1 --steps 3 --resume " + out;
  const auto expect_refused = [&](const std::string& flags, const std::string& message) {
    const Ran ran = run_carousel(resume + flags);
    EXPECT_EQ(ran.status, 1) << flags << ran.err;
    EXPECT_NE(ran.err.find("carousel: error: " + message), std::string::npos) << ran.err;
  };
  expect_refused(" --model " + (scratch / "other.json"), "--model: got " + (scratch / "other.json") + ", expected ");
  expect_refused(" --optim sgd", "--optim: got sgd, expected adamw, whose moments " + out + "/step-2/");
  fs::rename(out + "/step-2", out + "/step-7");
  expect_refused("", out + "/step-7/train.safetensors: \"step\" is 2, expected 7 as the folder's name says");
  fs::rename(out + "/step-7", out + "/step-2");
  fs::rename(out + "/step-2/train.safetensors", scratch / "moments");
  expect_refused("", out + "/step-2: no checkpoint to go on with: train.safetensors is missing");
  fs::rename(scratch / "moments", out + "/step-2/train.safetensors");
  fs::remove(out + "/step-2/model.safetensors");
  expect_refused("", out + "/step-2: no weights");
  fs::remove_all(out + "/step-2");
  EXPECT_EQ(run_carousel(resume + " --model " + (scratch / "./config.json")).status, 0);
}

TEST_F(TrainEnd, ALongValidationIsInterruptedAndDoneByTheResumedRun) {
  write_file(scratch / "valid.txt", text_of(kEmulated ? 100000 : 700000));
  const std::vector<std::string> flags{"--data",       scratch / "data.txt",
                                       "--valid",      scratch / "valid.txt",
                                       "--eval-rows",  "1000000",
                                       "--seq",        "64",
                                       "--batch",      "2",
                                       "--steps",      "3",
                                       "--eval-every", "2",
                                       "--save-best"};
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(run(arguments("whole", flags)).status, 0);
  const auto whole = std::chrono::steady_clock::now() - start;
  Process process(arguments("run", flags));
  ASSERT_TRUE(comes_true([&] { return log_of("run").size() == 2; })) << process.err();
  const auto signalled = std::chrono::steady_clock::now();
  process.send(SIGINT);
  EXPECT_EQ(process.wait(), 130) << process.err();
  EXPECT_LT(std::chrono::steady_clock::now() - signalled, whole / 4);  // a validation is half of it
  EXPECT_NE(process.err().find("interrupted after step 2; go on with"), std::string::npos) << process.err();
  EXPECT_EQ(log_of("run").size(), 2u);
  EXPECT_EQ(checkpoints("run"), std::vector<std::string>{"step-2"});
  const Ran resumed = run_carousel("train -t 1 --resume " + (scratch / "run"));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(log_of("run"), log_of("whole"));
  for (const std::string step : {"/step-2", "/step-3"}) {
    const std::string there = scratch / ("run" + step), expected = scratch / ("whole" + step);
    EXPECT_TRUE(tensors_of(there) == tensors_of(expected)) << step;
    EXPECT_TRUE(read_file(there + "/train.safetensors") == read_file(expected + "/train.safetensors")) << step;
  }
}

TEST_F(TrainEnd, AStepWithoutATargetHasNoLoss) {
  const std::string prompt(40, 'p');
  write_file(scratch / "pairs.jsonl", R"({"prompt": ")" + prompt + R"(", "completion": "abcdefgh"})");
  const std::vector<std::string> flags{"--data",        scratch / "pairs.jsonl",
                                       "--seq",         "16",
                                       "--batch",       "1",
                                       "--order",       "sequential",
                                       "--steps",       "3",
                                       "--log-every",   "1",
                                       "--skip-spikes", "3"};
  const Ran ran = run(arguments("run", flags));
  ASSERT_EQ(ran.status, 0) << ran.err;
  const std::vector<Json> lines = log_of("run");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(lines[0].at("loss").is_null()) << lines[0].dump();
  EXPECT_TRUE(lines[1].at("loss").is_null()) << lines[1].dump();
  EXPECT_GT(lines[2].at("loss").get<double>(), 3) << lines[2].dump();
  EXPECT_NE(ran.err.find("step 1/3: loss -, lr"), std::string::npos) << ran.err;
  EXPECT_EQ(run_carousel("plot " + (scratch / "run")).status, 0);
}

TEST_F(TrainEnd, WhatDoesNotFitIsRefusedInOneLineBeforeItIsAllocated) {
  write_file(scratch / "huge.json", kHuge);
  const std::string huge = scratch / "huge.json", tiny = scratch / "config.json";
  const std::string lines[] = {
      "train --model " + huge + " --data " + (scratch / "data.txt") + " --steps 1 --out " + (scratch / "out"),
      "bench " + huge + " --train --batch 1 --rows 8",
      "bench " + tiny + " --train --batch 65535 --rows 60000000",
  };
  for (const std::string& line : lines) {
    const Ran ran = run_carousel(line + " -t 1");
    EXPECT_EQ(ran.status, 1) << line << ran.err;
    const size_t error = ran.err.rfind("carousel: error: ");
    ASSERT_NE(error, std::string::npos) << line;
    EXPECT_NE(ran.err.find(" of memory available", error), std::string::npos) << ran.err;
    EXPECT_EQ(ran.err.find('\n', error), ran.err.size() - 1) << ran.err;
  }
}

}  // namespace
}  // namespace carousel::cli
