// SPDX-License-Identifier: Apache-2.0
// Signals that find a command where it cannot look at them: it writes to a pipe nobody reads, or reads a long prompt.
#include <sys/ioctl.h>

#include <cstring>

#include "carousel/model/saved_state.h"
#include "tests/cli/process.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

constexpr const char* kTinyCfc = R"({"model_type": "cfc", "input_size": 2, "units": 7,
  "backbone_units": 8, "backbone_layers": 1})";
constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

/// A pipe of one page. Nobody reads it.
class FullPipe {
 public:
  FullPipe() {
    EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0);
    capacity_ = fcntl(ends_[1], F_SETPIPE_SZ, 4096);
  }
  ~FullPipe() { close(ends_[0]), close(ends_[1]); }
  FullPipe(const FullPipe&) = delete;
  FullPipe& operator=(const FullPipe&) = delete;
  int writer() const { return ends_[1]; }
  /// Once nothing more goes in.
  bool full() const {
    int before = -1, now = 0;
    ioctl(ends_[0], FIONREAD, &before);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ioctl(ends_[0], FIONREAD, &now);
    return now > 0 && now == before;
  }
  std::string text() const {  // of what is in it
    std::string bytes(static_cast<size_t>(capacity_), '\0');
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(0, read(ends_[0], bytes.data(), bytes.size()))));
    return bytes;
  }

 private:
  int ends_[2] = {-1, -1};
  int capacity_ = 0;
};

std::string letters(size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += static_cast<char>('a' + i * i % 23);
  return text;
}

/// That a saved state is what the model knows after the first of these bytes, bit for bit. Returns how many.
int64_t expect_prefix(const std::string& folder, const std::string& path, const std::string& text) {
  const Library library(folder);
  const model::SavedState saved = model::load_state(path, library.model);
  const std::vector<int32_t> tokens = library.model.text().encode(text);
  const size_t count = saved.tokens.size();
  EXPECT_LE(count, tokens.size());
  EXPECT_TRUE(std::equal(saved.tokens.begin(), saved.tokens.end(), tokens.begin()));
  model::Runner runner(*library.model.lm, library.stream);
  State state;
  runner.prefill(std::span(tokens).first(count), state);
  const NamedTensors got = saved.state.tensors(library.model.state_layout());
  const NamedTensors expected = state.tensors(library.model.state_layout());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].tensor.size_bytes(), expected[i].tensor.size_bytes());
    if (got[i].tensor.size_bytes() == 0) continue;  // it has no bytes to point to
    EXPECT_EQ(std::memcmp(got[i].tensor.raw(), expected[i].tensor.raw(), got[i].tensor.size_bytes()), 0) << got[i].name;
  }
  return static_cast<int64_t>(count);
}

TEST(BlockedOutput, EndsWithTheStateOfWhatWasWritten) {
  for (const int signal : kSignals) {
    const Scratch scratch;
    const std::string folder = init_model(scratch, kTinyMixed), state = scratch / "state";
    const FullPipe pipe;
    Process run(
        {"generate", folder, "-p", "abc", "-n", "-1", "--ignore-eos", "--seed", "1", "-t", "1", "--save-state", state},
        pipe.writer());
    ASSERT_TRUE(comes_true([&] { return pipe.full(); })) << run.err();
    run.send(signal);
    EXPECT_EQ(run.wait(), 130) << run.err();
    EXPECT_NE(run.err().find("interrupted"), std::string::npos) << run.err();
    const Ran resumed = run_carousel("generate " + folder + " -n 1 -t 1 --load-state " + state);
    EXPECT_EQ(resumed.status, 0) << resumed.err;
  }
}

TEST(BlockedOutput, OfAPromptTooLongForItEnds) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm), state = scratch / "state", text = letters(100'000);
  write_file(scratch / "prompt", text);
  const FullPipe pipe;
  Process run({"generate", folder, "-f", scratch / "prompt", "-t", "1", "--save-state", state}, pipe.writer());
  ASSERT_TRUE(comes_true([&] { return pipe.full(); })) << run.err();
  run.send(SIGINT);
  EXPECT_EQ(run.wait(), 130) << run.err();
  EXPECT_EQ(expect_prefix(folder, state, text), 0);
  EXPECT_EQ(pipe.text(), text.substr(0, 4096));
}

// Standard error may be as full.
TEST(BlockedOutput, OfAllKindsEnds) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_file(scratch / "text", letters(3000));
  const FullPipe pipe;
  const std::string binary = CAROUSEL_RUN_DIR "/carousel";
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe.writer(), STDOUT_FILENO);
    dup2(pipe.writer(), STDERR_FILENO);
    execl(binary.c_str(), binary.c_str(), "generate", folder.c_str(), "-p", "a", "--ignore-eos", "-t", "1", nullptr);
    _exit(127);
  }
  EXPECT_TRUE(comes_true([&] { return pipe.full(); }));
  kill(child, SIGTERM);
  int status = 0;
  const bool ended = comes_true([&] { return waitpid(child, &status, WNOHANG) == child; });
  EXPECT_TRUE(ended);
  if (!ended) kill(child, SIGKILL), waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 130) << status;
}

TEST(BlockedOutput, OfRowsEndsWithTheirState) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyCfc), state = scratch / "state";
  std::string rows;
  for (int i = 0; i < 20000; ++i) rows += std::to_string(i % 7) + "," + std::to_string(i % 5) + "\n";
  write_file(scratch / "rows.csv", rows);
  const FullPipe pipe;
  Process run({"predict", folder, "--input", scratch / "rows.csv", "-t", "1", "--save-state", state}, pipe.writer());
  ASSERT_TRUE(comes_true([&] { return pipe.full(); })) << run.err();
  run.send(SIGINT);
  EXPECT_EQ(run.wait(), 130) << run.err();
  EXPECT_FALSE(is_absent(state));
}

TEST(BlockedOutput, OfTablesEnds) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_file(scratch / "text", letters(20000));
  const std::vector<std::vector<std::string>> commands = {
      {"tokenize", folder, "-f", scratch / "text"},
      {"compare", folder, "--b", "torch-bf16", "-f", scratch / "text", "--json", "-t", "1"},
  };
  for (const std::vector<std::string>& command : commands) {
    const FullPipe pipe;
    write(pipe.writer(), letters(4096).c_str(), 4096);
    Process run(command, pipe.writer());
    ASSERT_TRUE(comes_true([&] { return run.catches(SIGTERM); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // at whatever moment: it may compute yet
    run.send(SIGTERM);
    EXPECT_EQ(run.wait(), 130) << command[0] << run.err();
  }
}

TEST(LongPrompt, EndsWithTheStateOfWhatWasRead) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed), text = letters(1 << 20);
  write_file(scratch / "prompt", text);
  for (const int signal : kSignals) {
    const std::string state = scratch / "state" + std::to_string(signal);
    const std::string out = scratch / "out" + std::to_string(signal);
    const int descriptor = open(out.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    Process run({"generate", folder, "-f", scratch / "prompt", "-t", "1", "--save-state", state}, descriptor);
    close(descriptor);
    ASSERT_TRUE(comes_true([&] { return std::filesystem::file_size(out) >= text.size(); })) << "the prompt is shown";
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // at whatever moment
    run.send(signal);
    EXPECT_EQ(run.wait(), 130) << run.err();
    EXPECT_NE(run.err().find("interrupted"), std::string::npos) << run.err();
    EXPECT_NE(run.err().find("interrupted within the prompt"), std::string::npos) << run.err();
    const int64_t count = expect_prefix(folder, state, text);
    EXPECT_EQ(count % model::kPrefillRows, 0);
    EXPECT_NE(run.err().find(state + " holds the state after " + std::to_string(count) + " tokens"), std::string::npos)
        << run.err();
    const Ran resumed = run_carousel("generate " + folder + " -p abc -n 1 -t 1 --load-state " + state);
    EXPECT_EQ(resumed.status, 0) << resumed.err;
  }
}

// Half of what a loaded state had before stays true as well.
TEST(LongPrompt, AfterALoadedStateGoesOnFromIt) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm), start = scratch / "start", state = scratch / "state";
  const std::string text = letters(1 << 20);
  write_file(scratch / "prompt", text);
  ASSERT_EQ(run_carousel("generate " + folder + " -p hello -n 0 -t 1 --save-state " + start).status, 0);
  const FullPipe pipe;
  Process run({"generate", folder, "-f", scratch / "prompt", "-t", "1", "--load-state", start, "--save-state", state},
              pipe.writer());
  ASSERT_TRUE(comes_true([&] { return pipe.full(); }));
  run.send(SIGINT);
  EXPECT_EQ(run.wait(), 130) << run.err();
  EXPECT_EQ(expect_prefix(folder, state, "hello" + text), 5);
}

}  // namespace
}  // namespace carousel::cli
