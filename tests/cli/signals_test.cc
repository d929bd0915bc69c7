// SPDX-License-Identifier: Apache-2.0
// Ctrl-C, SIGTERM and SIGHUP: whenever they come there is a line, status 130, and nothing half done is left.
#include <signal.h>

#include <filesystem>

#include "carousel/core/json.h"
#include "tests/cli/terminal.h"
#include "tests/cli/tiny_model.h"
#include "tests/comes_true.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBinary = CAROUSEL_RUN_DIR "/carousel";
constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

/// From what the kernel says of the process.
bool catches(pid_t pid, int signal) {
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/status"), key = "SigCgt:";
  const size_t at = status.find(key);
  return at != status.npos && (std::stoull(status.substr(at + key.size()), nullptr, 16) >> (signal - 1) & 1) != 0;
}

TEST(Signals, BeforeThereIsAModelEndItWithALine) {
  if (kEmulated) GTEST_SKIP() << "an emulator catches signals itself";
  for (const int signal : kSignals) {
    Terminal terminal({kBinary, "generate", CAROUSEL_SOURCE_DIR "/models/stories-xlstm", "-f", "-"});
    ASSERT_TRUE(comes_true([&] { return catches(terminal.pid(), signal); }));
    kill(terminal.pid(), signal);
    EXPECT_EQ(terminal.wait_end(), 130);
    EXPECT_NE(terminal.shown().find("carousel: error: interrupted"), std::string::npos) << terminal.shown();
  }
}

TEST(Signals, WhileAModelIsWrittenNothingOfItIsLeft) {
  for (const int signal : kSignals) {
    const Scratch scratch;
    write_file(scratch / "config.json",
               R"({"model_type": "xlstm", "vocab_size": 4096, "hidden_size": 1024, "num_hidden_layers": 12,
                   "num_heads": 4})");
    const std::string out = scratch / "out";
    Terminal terminal({kBinary, "init", scratch / "config.json", "--out", out});
    std::error_code none;
    ASSERT_TRUE(comes_true([&] { return fs::exists(out) && !fs::is_empty(out, none); }));
    kill(terminal.pid(), signal);
    EXPECT_EQ(terminal.wait_end(), 130);
    EXPECT_NE(terminal.shown().find("interrupted"), std::string::npos) << terminal.shown();
    EXPECT_TRUE(is_absent(out));
  }
}

TEST(Signals, ABenchShowsWhatWasMeasuredUntilThen) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed), out = scratch / "out";
  std::string decodes = "1";
  for (int n = 2; n <= 64; ++n) decodes += "," + std::to_string(n);
  const std::string command = "exec " + std::string(kBinary) + " bench " + folder + " -p 4 -n " + decodes + " -t 1 -r ";
  Terminal terminal({"/bin/sh", "-c", command + "1000 --json >" + out});
  ASSERT_TRUE(terminal.shows("load average")) << terminal.shown();
  std::this_thread::sleep_for(std::chrono::milliseconds(700));  // the first of them have samples
  kill(terminal.pid(), SIGINT);
  EXPECT_EQ(terminal.wait_end(), 130);
  EXPECT_NE(terminal.shown().find("interrupted: figures are of the samples taken until then"), std::string::npos)
      << terminal.shown();
  const Json tests = parse_json(read_file(out), "bench").at("tests");
  EXPECT_LE(tests.size(), 65u);
  for (const Json& test : tests) {
    EXPECT_FALSE(test.at("samples").empty());
    EXPECT_GT(test.at("tokens_per_s").get<double>(), 0);
  }
}

TEST(Signals, ABenchEndsWithinAPromptOfMinutes) {
  Terminal terminal({kBinary, "bench", CAROUSEL_SOURCE_DIR "/models/stories-xlstm", "-p", "16777216", "-t", "1"});
  ASSERT_TRUE(terminal.shows("load average")) << terminal.shown();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  kill(terminal.pid(), SIGINT);
  EXPECT_EQ(terminal.wait_end(), 130) << terminal.shown();
}

TEST(Signals, AnEvaluationShowsWhatWasScoredUntilThen) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed), out = scratch / "out";
  write_file(scratch / "text", std::string(4 << 20, 'a'));
  const auto interrupted = [&](const std::string& flags) {
    const std::string command = "exec " + std::string(kBinary) + " eval " + folder + flags + " -t 1 --text ";
    Terminal terminal({"/bin/sh", "-c", command + (scratch / "text") + " >" + out});
    EXPECT_TRUE(terminal.shows("left")) << "the bar of progress: " << terminal.shown();
    kill(terminal.pid(), SIGINT);
    EXPECT_EQ(terminal.wait_end(), 130);
    return read_file(out);
  };
  EXPECT_TRUE(interrupted("").starts_with("partial result: stopped early\n")) << read_file(out);
  EXPECT_FALSE(parse_json(interrupted(" --json"), "eval").at("text").at("complete").get<bool>());
}

}  // namespace
}  // namespace carousel::cli
