// SPDX-License-Identifier: Apache-2.0
// Commands that write models, two at a time into one place, and killed at whatever moment: what is there afterwards is
// one complete model, or is told apart from one.
#include <random>

#include "carousel/core/files.h"
#include "tests/cli/process.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

/// In memory where the system has a folder there: files are flushed thousands of times here.
class Writers : public testing::Test {
 protected:
  Writers() {
    if (const char* before = std::getenv("TMPDIR")) before_ = before;
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
  }
  ~Writers() override { before_.empty() ? unsetenv("TMPDIR") : setenv("TMPDIR", before_.c_str(), 1); }

 private:
  std::string before_;
};
class TwoWriters : public Writers {};
class KilledWriters : public Writers {};

constexpr int kPairs = kSanitized || kEmulated ? 5 : 50;
constexpr int kKills = kSanitized || kEmulated ? 3 : 12;

/// Every file of a folder, or of one file its bytes.
std::map<std::string, std::string> contents(const std::string& path) {
  if (!fs::is_directory(path)) return {{"", read_file(path)}};
  std::map<std::string, std::string> out;
  for (const std::string& name : names_in(path)) out[name] = read_file(path + "/" + name);
  return out;
}

/// One way to write a model; the place comes last.
struct Writing {
  std::vector<std::string> first, second;  // the same, or of another outcome
  bool folder = true;
};

std::vector<std::string> into(std::vector<std::string> arguments, const std::string& out) {
  arguments.push_back(out);
  return arguments;
}

std::map<std::string, std::string> outcome(const std::vector<std::string>& arguments, const std::string& out) {
  Process alone(into(arguments, out));
  EXPECT_EQ(alone.wait(), 0) << alone.err();
  return contents(out);
}

void expect_one_of_two(const Writing& writing) {
  const Scratch scratch;
  const std::string ending = writing.folder ? "" : ".gguf";
  const auto expected_first = outcome(writing.first, scratch / "first" + ending);
  const auto expected_second = outcome(writing.second, scratch / "second" + ending);
  for (int pair = 0; pair < kPairs; ++pair) {
    const Scratch place;
    const std::string out = place / "out" + ending;
    Process first(into(writing.first, out)), second(into(writing.second, out));
    const int statuses[] = {first.wait(), second.wait()};
    const std::string errors[] = {first.err(), second.err()};
    // One file after the other may be replaced, as by two runs in turn.
    EXPECT_TRUE(statuses[0] == 0 || statuses[1] == 0) << errors[0] << errors[1];
    EXPECT_TRUE(!writing.folder || statuses[0] != statuses[1]);
    for (int i = 0; i < 2; ++i) {
      if (statuses[i] == 0) continue;
      EXPECT_EQ(statuses[i], 1) << errors[i];
      EXPECT_TRUE(errors[i].find("another run") != std::string::npos ||
                  errors[i].find("exists and is not an empty folder") != std::string::npos)
          << errors[i];
    }
    const auto got = contents(out);
    EXPECT_TRUE((statuses[0] == 0 && got == expected_first) || (statuses[1] == 0 && got == expected_second));
    EXPECT_EQ(names_in(place.path()).size(), 1u) << "something else was left";
  }
}

TEST_F(TwoWriters, OfInitLeaveOneModel) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyXlstm);
  const std::vector<std::string> init{"init", scratch / "config.json", "--seed", "1", "--out"};
  std::vector<std::string> other = init;
  other[3] = "2";
  expect_one_of_two({init, init});
  expect_one_of_two({init, other});
}

TEST_F(TwoWriters, OfQuantizeLeaveOneModel) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm);
  const std::vector<std::string> q8{"quantize", model, "--type", "q8", "-t", "1", "--out"};
  std::vector<std::string> q4 = q8;
  q4[3] = "q4";
  expect_one_of_two({q8, q8});
  expect_one_of_two({q8, q4});
  expect_one_of_two({q8, q8, false});
  expect_one_of_two({q8, q4, false});
}

TEST_F(TwoWriters, OfConvertLeaveOneModel) {
  const Scratch scratch, others;
  const std::string model = init_model(scratch, kTinyXlstm), other = init_model(others, kTinyXlstm, "--seed 9");
  const std::string gguf = scratch / "model.gguf", other_gguf = others / "model.gguf";
  for (const auto& [from, to] : {std::pair(model, gguf), std::pair(other, other_gguf)}) {
    ASSERT_EQ(run_carousel("convert " + from + " --out " + to).status, 0);
  }
  const auto convert = [](const std::string& from) {
    return std::vector<std::string>{"convert", from, "-t", "1", "--out"};
  };
  expect_one_of_two({convert(gguf), convert(gguf)});
  expect_one_of_two({convert(gguf), convert(other_gguf)});
  expect_one_of_two({convert(model), convert(model), false});
  expect_one_of_two({convert(model), convert(other), false});
}

/// Kills runs into `out` at any moment, and lets one finish after each.
void expect_that_kills_leave_nothing(const std::vector<std::string>& arguments, const std::string& ending) {
  const Scratch scratch;
  const auto start = std::chrono::steady_clock::now();
  const auto expected = outcome(arguments, scratch / "expected" + ending);
  const double duration_us =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  std::mt19937 random(7);
  for (int round = 0; round < kKills; ++round) {
    const Scratch place;
    const std::string out = place / "out" + ending;
    for (int writer = 0; writer < 2; ++writer) {
      Process killed(into(arguments, out));
      const double after = duration_us * std::uniform_real_distribution<double>(0, 1)(random);
      std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int64_t>(after)));
      killed.send(SIGKILL);
      if (killed.wait() == 0) fs::remove_all(out);  // it was faster
    }
    if (ending.empty() && fs::exists(out) && !fs::is_empty(out)) {
      const Ran info = run_carousel("info " + out);
      if (info.status == 0) {  // killed after its last file
        EXPECT_EQ(contents(out), expected);
        fs::remove_all(out);
      } else {
        EXPECT_NE(info.err.find("unfinished, written by process"), std::string::npos) << info.err;
      }
    }
    Process again(into(arguments, out));
    EXPECT_EQ(again.wait(), 0) << again.err();
    EXPECT_EQ(contents(out), expected);
    EXPECT_EQ(names_in(place.path()).size(), 1u) << "something of the dead was left";
  }
}

constexpr const char* kSmallXlstm = R"({"model_type": "xlstm", "vocab_size": 2048, "hidden_size": 128,
  "num_hidden_layers": 4, "num_heads": 2})";

TEST_F(KilledWriters, OfInitAreCompletedByTheNextRun) {
  const Scratch scratch;
  write_file(scratch / "config.json", kSmallXlstm);
  expect_that_kills_leave_nothing({"init", scratch / "config.json", "--out"}, "");
}

TEST_F(KilledWriters, OfQuantizeAndConvertAreCompletedByTheNextRun) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kSmallXlstm);
  expect_that_kills_leave_nothing({"quantize", model, "--type", "q8", "-t", "1", "--out"}, "");
  expect_that_kills_leave_nothing({"convert", model, "-t", "1", "--out"}, ".gguf");
}

TEST_F(KilledWriters, OfAStateLeaveTheStateBeforeOrAfter) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kTinyXlstm), state = scratch / "states" + "/s";
  fs::create_directory(scratch / "states");
  const std::vector<std::string> arguments{"generate", model, "-p", "abc", "-n", "3", "-t", "1", "--save-state", state};
  std::mt19937 random(7);
  for (int round = 0; round < kKills; ++round) {
    Process killed(arguments);
    std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(0, 40000)(random)));
    killed.send(SIGKILL);
    killed.wait();
    if (!fs::exists(state)) continue;
    const Ran resumed = run_carousel("generate " + model + " -n 1 -t 1 --load-state " + state);
    EXPECT_EQ(resumed.status, 0) << resumed.err;
  }
  Process last(arguments);
  EXPECT_EQ(last.wait(), 0) << last.err();
  EXPECT_EQ(names_in(scratch / "states"), std::vector<std::string>{"s"});
}

}  // namespace
}  // namespace carousel::cli
