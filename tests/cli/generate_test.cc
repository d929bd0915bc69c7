// SPDX-License-Identifier: Apache-2.0
// `carousel generate` as a user runs it: the built binary on the bundled model, its two streams and its exit status.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"
#include "carousel/text/tokenizer.h"
#include "tests/scratch.h"

namespace carousel {
namespace {

namespace fs = std::filesystem;

const std::string kBinary = CAROUSEL_RUN_DIR "/carousel";
const std::string kModel = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
const std::string kOnce = " -p 'Once upon a time' ";

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Result {
  int status = -1;  // as a shell sees it: 128 + signal when killed
  std::string out, err;
};

class GenerateCommand : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kBinary)) GTEST_SKIP() << "carousel is not built";
  }

  std::string path(const std::string& name) const { return folder_ / name; }

  /// A line of shell in which $C is the binary; standard input is empty unless the line says otherwise.
  Result shell(const std::string& line) const {
    const std::string script = "C='" + kBinary + "'; M='" + kModel + "'; { " + line + "\n} </dev/null >'" +
                               path("out") + "' 2>'" + path("err") + "'";
    const int status = std::system(script.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(path("out")),
            contents(path("err"))};
  }
  Result generate(const std::string& arguments) const { return shell("\"$C\" generate \"$M\" -t 2 " + arguments); }

  /// Status 2, nothing on stdout, one line on stderr that holds `expected`.
  void expect_usage_error(const std::string& line, const std::string& expected) const {
    const Result result = shell(line);
    EXPECT_EQ(result.status, 2) << line << "\n" << result.err;
    EXPECT_EQ(result.out, "") << line;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.rfind("carousel: error: ", 0), 0u) << result.err;
    EXPECT_NE(result.err.find(expected), std::string::npos) << result.err;
  }

  const Scratch folder_;
};

TEST_F(GenerateCommand, GreedyStoryEqualsTheReference) {
  const std::string expected_path = CAROUSEL_SOURCE_DIR "/../shared/models/stories-xlstm/expected.safetensors";
  if (!fs::exists(expected_path)) GTEST_SKIP() << "no reference data beside the sources";
  const formats::SafetensorsFile file = formats::SafetensorsFile::open(expected_path);
  const auto ids = [&](const char* name) {
    std::vector<int32_t> out;
    for (const NamedTensor& named : file.load_all()) {
      if (named.name != name) continue;
      for (int64_t i = 0; i < named.tensor.count(); ++i) out.push_back(static_cast<int32_t>(named.tensor.i64()[i]));
    }
    return out;
  };
  const text::Tokenizer tokenizer = text::Tokenizer::from_file(kModel + "/tokenizer.json");
  const std::string prompt = tokenizer.decode(ids("prompt"));  // with its leading <|endoftext|>
  std::vector<int32_t> story = ids("greedy");
  ASSERT_EQ(story.size(), 160u);
  std::ofstream(path("prompt")) << prompt;
  // The reference goes on past end tokens; without one in it the two are the same text.
  const auto end = std::find_if(story.begin(), story.end(), [&](int32_t id) { return tokenizer.is_special(id); });
  story.erase(end, story.end());
  const Result result = generate("-f '" + path("prompt") + "' --temp 0 -n 160 --no-display-prompt");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, tokenizer.decode(story) + "\n");
}

TEST_F(GenerateCommand, StdoutCarriesTheTextAlone) {
  const Result shown = generate(kOnce + "--seed 7 -n 20");
  ASSERT_EQ(shown.status, 0) << shown.err;
  EXPECT_EQ(shown.out.rfind("Once upon a time", 0), 0u) << shown.out;
  EXPECT_EQ(generate(kOnce + "--seed 7 -n 20").out, shown.out) << "the same seed tells the same story";
  EXPECT_NE(generate(kOnce + "--seed 8 -n 20").out, shown.out);
  EXPECT_EQ("Once upon a time" + generate(kOnce + "--seed 7 -n 20 --no-display-prompt").out, shown.out);
  EXPECT_EQ(std::count(shown.err.begin(), shown.err.end(), '\n'), 1) << shown.err;
  for (const char* part : {"prompt 4 tokens", "decode 19 tokens", "tok/s", "peak memory", "seed 7"}) {
    EXPECT_NE(shown.err.find(part), std::string::npos) << part << " in " << shown.err;
  }
}

TEST_F(GenerateCommand, ThePromptComesFromAFlagAFileOrStdin) {
  const std::string expected = generate(kOnce + "--temp 0 -n 10").out;
  std::ofstream(path("prompt")) << "Once upon a time\n";
  EXPECT_EQ(generate("-f '" + path("prompt") + "' --temp 0 -n 10").out, expected);
  EXPECT_EQ(shell("echo 'Once upon a time' | \"$C\" generate \"$M\" --temp 0 -n 10").out, expected);
  const Result none = generate("--temp 0 -n 10");  // from the token between texts
  EXPECT_EQ(none.status, 0) << none.err;
  EXPECT_GT(none.out.size(), 10u);
}

TEST_F(GenerateCommand, StopStringsAreNotPrinted) {
  const std::string whole = generate(kOnce + "--temp 0 -n 40").out;
  const size_t at = whole.find("a little");
  ASSERT_NE(at, std::string::npos) << whole;
  EXPECT_EQ(generate(kOnce + "--temp 0 -n 40 --stop 'nothing' --stop 'a little'").out, whole.substr(0, at) + "\n");
}

TEST_F(GenerateCommand, SamplesAreForksOfOnePrompt) {
  const Result result = generate(kOnce + "--seed 5 -n 12 --samples 3");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.err.find("prompt 4 tokens"), std::string::npos) << result.err;
  EXPECT_EQ(result.out.rfind("--- 1 ---\nOnce upon a time", 0), 0u) << result.out;
  EXPECT_NE(result.out.find("\n\n--- 2 ---\n"), std::string::npos);
  EXPECT_NE(result.out.find("\n\n--- 3 ---\n"), std::string::npos);
  const std::string first = generate(kOnce + "--seed 5 -n 12").out;  // sample 1 is what it is alone
  EXPECT_EQ(result.out.substr(10, first.size()), first);
}

TEST_F(GenerateCommand, JsonRecordsJoinToTheText) {
  const Result result = generate(kOnce + "--temp 0 -n 9 --json --top-logprobs 3");
  ASSERT_EQ(result.status, 0) << result.err;
  std::istringstream lines(result.out);
  std::vector<Json> records;
  for (std::string line; std::getline(lines, line);) records.push_back(parse_json(line, "record"));
  ASSERT_EQ(records.size(), 10u);
  std::string text;
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(records[i].at("index"), i);
    ASSERT_EQ(records[i].at("top_logprobs").size(), 3u);
    EXPECT_EQ(records[i].at("top_logprobs")[0].at("id"), records[i].at("id")) << "greedy takes the likeliest";
    EXPECT_EQ(records[i].at("top_logprobs")[0].at("logprob"), records[i].at("logprob"));
    EXPECT_LE(records[i].at("logprob").get<double>(), 0);
    text += records[i].at("text").get<std::string>();
  }
  EXPECT_EQ(records[9].at("stop"), "length");
  EXPECT_EQ(records[9].at("tokens"), 9);
  EXPECT_EQ(records[9].at("prompt_tokens"), 4);
  EXPECT_EQ(text + "\n", generate(kOnce + "--temp 0 -n 9 --no-display-prompt").out);
}

TEST_F(GenerateCommand, ASavedStateContinuesTheSameText) {
  const std::string whole = generate(kOnce + "--seed 3 --repeat-penalty 1.1 -n 40").out;
  const std::string state = " '" + path("state") + "' ";
  const std::string begun = generate(kOnce + "--seed 3 --repeat-penalty 1.1 -n 15 --save-state" + state).out;
  const Result rest = generate("--load-state" + state + "--seed 3 --repeat-penalty 1.1 -n 25");
  EXPECT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(begun.substr(0, begun.size() - 1) + rest.out, whole);
  // A prompt after a state is the same as the two in one.
  const Result longer = generate("--load-state" + state + "-p ' And then' --temp 0 -n 5");
  EXPECT_EQ(longer.out.rfind(" And then", 0), 0u) << longer.out << longer.err;
}

TEST_F(GenerateCommand, CtrlCStopsCleanlyAndSavesTheState) {
  const std::string state = " '" + path("state") + "' ";
  const Result stopped = shell("\"$C\" generate \"$M\" -t 2 --ignore-eos --seed 3" + kOnce + "--save-state" + state +
                               "& pid=$!; until [ $(wc -c <'" + path("out") +
                               "') -gt 40 ]; do sleep 0.02; done; kill -INT $pid; wait $pid");
  EXPECT_EQ(stopped.status, 130) << stopped.err;
  EXPECT_NE(stopped.err.find("interrupted"), std::string::npos) << stopped.err;
  ASSERT_GT(stopped.out.size(), 40u);
  const Result rest = generate("--ignore-eos --seed 3 -n 20 --load-state" + state);
  ASSERT_EQ(rest.status, 0) << rest.err;
  // However late the signal came: a token is a byte at least.
  const size_t tokens = stopped.out.size() + rest.out.size();
  const std::string whole = generate("--ignore-eos --seed 3 -n " + std::to_string(tokens) + kOnce).out;
  // Each output ends with a newline of its own, which may be where the text has one.
  const std::string end = rest.out.substr(0, rest.out.size() - 1);
  const std::string text = stopped.out.substr(0, stopped.out.size() - 1);
  EXPECT_TRUE(whole.starts_with(text + end) || whole.starts_with(stopped.out + end)) << whole << "\n---\n"
                                                                                     << stopped.out << "---\n"
                                                                                     << rest.out;
}

TEST_F(GenerateCommand, AClosedPipeEndsItQuietly) {
  const Result result =
      shell("(\"$C\" generate \"$M\" --ignore-eos" + kOnce + "; echo $? >'" + path("status") + "') | head -c 20");
  EXPECT_EQ(result.out, "Once upon a time, th");
  EXPECT_EQ(contents(path("status")), "141\n");
  EXPECT_EQ(result.err.find("error"), std::string::npos) << result.err;
}

TEST_F(GenerateCommand, AFullDiskIsReported) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const Result result = shell("\"$C\" generate \"$M\" -n 5" + kOnce + ">/dev/full");
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.err, "carousel: error: stdout: cannot write: No space left on device\n");
}

TEST_F(GenerateCommand, WrongUsageIsOneLineAndStatusTwo) {
  const std::string run = "\"$C\" generate \"$M\" ";
  expect_usage_error("\"$C\"", "no command given");
  expect_usage_error("\"$C\" generat", "did you mean \"generate\"?");
  expect_usage_error("\"$C\" dance", "unknown command \"dance\", expected one of bench, ");
  expect_usage_error("\"$C\" generate", "model is required");
  expect_usage_error(run + "-p a --tmep 1", "unknown option \"--tmep\"; did you mean \"--temp\"?");
  expect_usage_error(run + "-p a surplus", "unexpected argument \"surplus\"");
  expect_usage_error(run + "-p a --temp hot", "--temp: got \"hot\", expected a number >= 0");
  expect_usage_error(run + "-p a --temp -1", "--temp: got \"-1\"");
  expect_usage_error(run + "-p a --temp nan", "--temp: got \"nan\"");
  expect_usage_error(run + "-p a --repeat-penalty 1e38", "expected a number from 1e-06 to 1e+30");
  expect_usage_error(run + "-p a --presence-penalty -1e38", "expected a number from -1e+30 to 1e+30");
  expect_usage_error(run + "-p a --top-p 1.5", "expected a number from 0 to 1");
  expect_usage_error(run + "-p a -n -2", "expected an integer from -1");
  expect_usage_error(run + "-p a -n 5x", "got \"5x\"");
  expect_usage_error(run + "-p a -n", "INT missing");
  expect_usage_error(run + "-p a --samples 0", "--samples: got \"0\"");
  expect_usage_error(run + "-p a --logit-bias 5", "--logit-bias: got \"5\"");
  expect_usage_error(run + "-p a --isa mmx", "--isa: got \"mmx\"");
  expect_usage_error(run + "-p a -t -1", "-t: got \"-1\"");
  expect_usage_error(run + "-p a -f b", "both -p and -f");
  expect_usage_error(run + "-p a --samples 2 --save-state x", "one file holds one state");
}

TEST_F(GenerateCommand, WrongInputIsOneLineAndStatusOne) {
  const auto expect_error = [&](const std::string& line, const std::string& expected) {
    const Result result = shell(line);
    EXPECT_EQ(result.status, 1) << line << "\n" << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(expected), std::string::npos) << result.err;
  };
  const std::string run = "\"$C\" generate \"$M\" ";
  expect_error("\"$C\" generate '" + path("nowhere") + "' -p a", "no such file or folder");
  expect_error(run + "-f '" + path("nowhere") + "'", "cannot open");
  expect_error(run + "-f \"$M/model.safetensors\"", "expected text");
  expect_error(run + "-p a --logit-bias 4096+1", "token 4096, expected 0 to 4095");
  expect_error(run + "-p a --load-state \"$M/model.safetensors\"", "not a saved state");
  expect_error(run + "-p a --save-state '" + path("no/such/folder") + "'", "cannot write here");
  std::ofstream(path("notes")) << "A state begins with \"carousel.state\".";
  expect_error(run + "-p a --save-state '" + path("notes") + "'", "exists and is no saved state");
  expect_usage_error(run + "-p a -p b", "-p: given more than once");
  expect_error("\"$C\" generate '' -p a", "\"\": no such file or folder");
  expect_error(run + "-p a --save-state '" + folder_.path() + "'", "exists and is no regular file");
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error(run + "-p a --save-state '" + path("pipe") + "'", "exists and is no regular file");
}

TEST_F(GenerateCommand, AStandardErrorNobodyReadsIsNoError) {
  const std::string run = "\"$C\" generate \"$M\" -n 4 --temp 0" + kOnce;
  for (const char* closed : {"2>&-", "2>/dev/full"}) {
    const std::string state = path("state");
    const Result result = shell(run + "--save-state '" + state + "' " + closed);
    EXPECT_EQ(result.status, 0) << closed;
    EXPECT_EQ(result.out, "Once upon a time, there was a\n") << closed;
    EXPECT_NO_THROW(formats::SafetensorsFile::open(state)) << closed;
    EXPECT_EQ(shell(std::string("\"$C\" generate nowhere ") + closed).status, 1) << closed;
  }
  EXPECT_EQ(shell(run + ">&-").err, "carousel: error: stdout: cannot write: Bad file descriptor\n");
}

TEST_F(GenerateCommand, HelpListsOptionsWithTheirDefaults) {
  const Result general = shell("\"$C\" --help");
  EXPECT_EQ(general.status, 0);
  for (const char* command :
       {"bench", "chat", "eval", "forecast", "generate", "info", "init", "predict", "tokenize", "verify", "wiring"}) {
    EXPECT_NE(general.out.find(command), std::string::npos) << command;
    const Result one = shell(std::string("\"$C\" ") + command + " --help");
    EXPECT_EQ(one.status, 0) << one.err;
    EXPECT_NE(one.out.find("Usage: carousel "), std::string::npos) << one.out;
  }
  const std::string help = shell("\"$C\" generate --help").out;
  // The option parser's versions write a default as "=0.8" or as " [0.8]".
  const std::pair<const char*, const char*> options[] = {
      {"--temp FLOAT", "0.8"},        {"--top-k INT", "40"},         {"--top-p FLOAT", "0.95"},
      {"--min-p FLOAT", "0.05"},      {"--repeat-last-n INT", "64"}, {"-n,--n-predict,--predict INT", "-1"},
      {"--repeat-penalty FLOAT", "1"}};
  for (const auto& [option, value] : options) {
    const bool listed = help.find(std::string(option) + "=" + value) != std::string::npos ||
                        help.find(std::string(option) + " [" + value + "]") != std::string::npos;
    EXPECT_TRUE(listed) << option << " " << value;
  }
  EXPECT_EQ(shell("\"$C\" --version").out.rfind("carousel ", 0), 0u);
}

}  // namespace
}  // namespace carousel
