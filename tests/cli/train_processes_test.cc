// SPDX-License-Identifier: Apache-2.0
// carousel train under mpirun: losses do not depend on the number of processes, a job that ended anywhere is resumed by
// any number, and it ends with one line whichever process fails. A build without MPI refuses to be one of many.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <sstream>
#include <thread>

#include "carousel/core/json.h"
#include "tests/cli/process.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

int errors_in(const std::string& text) {
  int count = 0;
  for (size_t at = 0; (at = text.find("carousel: error: ", at)) != text.npos; ++at) ++count;
  return count;
}

class TrainProcesses : public testing::Test {
 protected:
  TrainProcesses() {
    write_file(scratch / "config.json", kTinyMixed);
    std::string text;
    for (int i = 0; i < 60; ++i) {
      text += "the cat number " + std::to_string(i) + " sat on the mat and looked at the moon.<|endoftext|>";
    }
    write_file(scratch / "data.txt", text);
  }
  std::vector<std::string> arguments(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> all{
        "train", "--model", scratch / "config.json", "--data", scratch / "data.txt", "--out", out, "-t", "1",
        "--seq", "48"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Scratch scratch;
};

#ifdef CAROUSEL_MPIEXEC

/// How long a job may go on after one of its processes was killed.
constexpr std::chrono::seconds kMostAfterAKill{30};

struct Loss {
  int64_t step;
  double loss;
  bool operator==(const Loss&) const = default;
};

std::vector<Loss> losses(const std::string& out) {
  std::vector<Loss> found;
  std::ifstream log(out + "/log.jsonl");
  for (std::string line; std::getline(log, line);) {
    const Json record = Json::parse(line);
    if (record.contains("loss")) found.push_back({record["step"].get<int64_t>(), record["loss"].get<double>()});
  }
  return found;
}

/// Whether there is such a process, and more of it than a status that nobody has read.
bool runs(pid_t process) {
  const std::string stat = read_file("/proc/" + std::to_string(process) + "/stat");
  const size_t name_end = stat.rfind(')');
  return name_end != stat.npos && stat.at(name_end + 2) != 'Z';
}

/// Open MPI as root, with more processes than cores, on this machine alone. It takes a second to start.
void prepare_launcher() {
  const std::pair<const char*, const char*> variables[] = {
      {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
      {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
      {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
      {"OMPI_MCA_hwloc_base_binding_policy", "none"},
      {"OMPI_MCA_plm_rsh_agent", ""},                        // no ssh
      {"OMPI_MCA_btl_vader_single_copy_mechanism", "none"},  // containers may forbid it
      {"ASAN_OPTIONS", "detect_leaks=0"},                    // Open MPI keeps what it allocates until the end
  };
  for (const auto& [name, value] : variables) setenv(name, value, 1);
}

std::vector<std::string> launch(int processes, const std::vector<std::string>& arguments) {
  std::vector<std::string> all{"-n", std::to_string(processes), CAROUSEL_RUN_DIR "/carousel"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

/// A job of so many processes, or carousel alone.
class Started : public Process {
 public:
  Started(int processes, const std::vector<std::string>& arguments)
      : Process(processes == 0 ? CAROUSEL_RUN_DIR "/carousel" : CAROUSEL_MPIEXEC,
                processes == 0 ? arguments : launch(processes, arguments), -1) {}
  /// The processes of the job that run.
  std::vector<pid_t> children() const {
    const std::string id = std::to_string(pid());
    std::istringstream ids(read_file("/proc/" + id + "/task/" + id + "/children"));
    return {std::istream_iterator<pid_t>(ids), {}};
  }
};

class TrainMpi : public TrainProcesses {
 protected:
  TrainMpi() { prepare_launcher(); }

  /// Runs to the end.
  void train(int processes, const std::vector<std::string>& words) const {
    Started job(processes, words);
    ASSERT_EQ(job.wait(), 0) << job.err();
  }
  void expect_near(const std::string& out, const std::string& expected, double bound) const {
    const std::vector<Loss> a = losses(scratch / out), b = losses(scratch / expected);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].step, b[i].step);
      EXPECT_NEAR(a[i].loss, b[i].loss, bound) << out << ", step " << a[i].step;
    }
  }
};

TEST_F(TrainMpi, TheNumberOfProcessesChangesNoLoss) {
  // 6 rows of 4 processes are 1, 2, 1 and 2; rows are cut into micro-batches besides.
  const std::vector<std::string> words{
      "--steps",   "50",  "--batch",          "6",   "--micro-batch", "1", "--carry-state",
      "--dropout", "0.1", "--valid-fraction", "0.2", "--eval-every",  "20"};
  train(0, arguments(scratch / "alone", words));
  for (const int processes : {1, 2, 4}) {
    const std::string out = "run" + std::to_string(processes);
    train(processes, arguments(scratch / out, words));
    expect_near(out, "alone", 1e-5);
  }
  EXPECT_TRUE(tensors_of(scratch / "run1/step-50") == tensors_of(scratch / "alone/step-50"));
  EXPECT_EQ(losses(scratch / "run1"), losses(scratch / "alone"));
}

TEST_F(TrainMpi, TheSameNumberGivesTheSameBits) {
  const std::vector<std::string> words{"--steps", "12", "--batch", "8"};
  for (const int processes : {2, 4}) {
    const std::string number = std::to_string(processes), a = scratch / ("a" + number), b = scratch / ("b" + number);
    train(processes, arguments(a, words));
    train(processes, arguments(b, words));
    EXPECT_TRUE(tensors_of(a + "/step-12") == tensors_of(b + "/step-12"));
    EXPECT_EQ(losses(a), losses(b));
  }
}

TEST_F(TrainMpi, EveryOptimiserIsSharded) {
  for (const char* optimiser : {"muon", "sgd"}) {
    // Two rows of four processes: two of them have none.
    const std::vector<std::string> words{"--steps", "20", "--batch", "2", "--optim", optimiser};
    const std::string name = optimiser;
    train(0, arguments(scratch / name, words));
    for (const int processes : {2, 4}) {
      train(processes, arguments(scratch / (name + std::to_string(processes)), words));
      expect_near(name + std::to_string(processes), name, 1e-5);
    }
  }
}

TEST_F(TrainMpi, AnotherNumberGoesOnWithARun) {
  const std::vector<std::string> words{"--steps", "48", "--batch",      "5", "--save-every", "16",
                                       "--keep",  "9",  "--carry-state"};
  train(0, arguments(scratch / "alone", words));
  train(2, arguments(scratch / "run", words));
  const auto go_on = [&](int processes, int64_t after) {
    for (const int64_t step : {16, 32, 48}) {
      if (step > after) fs::remove_all(scratch / ("run/step-" + std::to_string(step)));
    }
    train(processes, {"train", "--resume", scratch / "run", "-t", "1"});
    expect_near("run", "alone", 1e-5);
  };
  go_on(4, 16);
  go_on(0, 32);
  go_on(2, 32);
  // The same files, whichever number of processes wrote them.
  const auto names = [](const std::map<std::string, std::string>& tensors) {
    std::vector<std::string> out;
    for (const auto& [name, bytes] : tensors) out.push_back(name + " " + std::to_string(bytes.size()));
    return out;
  };
  EXPECT_EQ(names(tensors_of(scratch / "run/step-48")), names(tensors_of(scratch / "alone/step-48")));
  const std::string state = "/step-48/train.safetensors";
  EXPECT_EQ(fs::file_size(scratch / ("run" + state)), fs::file_size(scratch / ("alone" + state)));
}

// The seconds are counted from the kill until the launcher has ended, and all processes of the job with it.
TEST_F(TrainMpi, AKilledProcessEndsTheJobWithin30SecondsAndItsLastCheckpointIsGood) {
  const std::vector<std::string> words{"--steps", "100", "--batch", "4", "--save-every", "5", "--carry-state"};
  for (const int processes : {2, 4}) {
    const std::string number = std::to_string(processes), whole = scratch / ("whole" + number);
    train(processes, arguments(whole, words));
    const std::string out = scratch / ("run" + number);
    {
      Started job(processes, arguments(out, words));
      ASSERT_TRUE(comes_true([&] { return fs::exists(out + "/step-5/train.safetensors"); })) << job.err();
      const std::vector<pid_t> children = job.children();
      ASSERT_EQ(children.size(), static_cast<size_t>(processes));
      const auto start = std::chrono::steady_clock::now();
      kill(children.back(), SIGKILL);
      EXPECT_NE(job.wait(), 0);
      EXPECT_LT(std::chrono::steady_clock::now() - start, kMostAfterAKill) << processes;
      for (const pid_t child : children) EXPECT_FALSE(runs(child)) << child;
    }
    EXPECT_FALSE(fs::exists(out + "/step-100"));
    train(processes, {"train", "--resume", out, "-t", "1"});
    EXPECT_TRUE(tensors_of(out + "/step-100") == tensors_of(whole + "/step-100"));
    EXPECT_EQ(losses(out), losses(whole));
  }
}

// mpirun answers Ctrl-C with a SIGTERM to each process, and ends with a status of its own.
TEST_F(TrainMpi, AnInterruptOfTheLauncherSaves) {
  const std::string out = scratch / "run";
  Started job(2, arguments(out, {"--steps", "100000", "--batch", "4"}));
  ASSERT_TRUE(comes_true([&] { return fs::exists(out + "/log.jsonl") && fs::file_size(out + "/log.jsonl") > 200; }));
  job.send(SIGINT);
  EXPECT_NE(job.wait(), 0);
  ASSERT_NE(job.err().find("interrupted after step"), std::string::npos) << job.err();
  const std::vector<Loss> taken = losses(out);
  ASSERT_FALSE(taken.empty());
  EXPECT_TRUE(fs::exists(out + "/step-" + std::to_string(taken.back().step) + "/train.safetensors"));
}

TEST_F(TrainMpi, ASignalToOneProcessSavesAndEndsAllWith130) {
  for (const int signal : {SIGINT, SIGUSR1}) {
    const std::string out = scratch / ("run" + std::to_string(signal));
    Started job(2, arguments(out, {"--steps", "100000", "--batch", "4"}));
    ASSERT_TRUE(comes_true([&] { return fs::exists(out + "/log.jsonl") && fs::file_size(out + "/log.jsonl") > 200; }));
    if (signal == SIGUSR1) {
      job.send(signal);  // mpirun hands it on
    } else {
      ASSERT_FALSE(job.children().empty());
      kill(job.children().front(), signal);
    }
    EXPECT_EQ(job.wait(), 130) << job.err();
    EXPECT_NE(job.err().find("interrupted after step"), std::string::npos) << job.err();
  }
}

TEST_F(TrainMpi, AnErrorIsOneLine) {
  const std::string out = scratch / "run";
  struct Case {
    std::vector<std::string> words;
    const char* message;
    int status;
  };
  const Case cases[] = {
      {arguments(out, {"--steps", "3", "--betas", "x"}), "--betas: got \"x\"", 2},
      {arguments(out, {"--steps", "x"}), "--steps: got \"x\"", 2},
      {arguments(out, {"--steps", "3", "--valid", scratch / "none.txt"}), "none.txt", 1},
      {arguments(out, {"--steps", "50", "--lr", "1e30", "--clip", "0", "--warmup", "0"}), "expected finite numbers", 1},
  };
  for (const Case& one : cases) {
    Started job(2, one.words);
    EXPECT_EQ(job.wait(), one.status) << job.err();
    EXPECT_EQ(errors_in(job.err()), 1) << job.err();
    EXPECT_NE(job.err().find(one.message), std::string::npos) << job.err();
    fs::remove_all(out);
  }
}

// The launcher answers the end of rank 1 with a signal to rank 0, which has spoken and takes longer to end.
TEST_F(TrainMpi, AFirstProcessThatEndsLateSpeaksOnce) {
  std::atomic<bool> ended{false};
  std::vector<std::thread> busy;
  for (unsigned i = 0; i <= std::thread::hardware_concurrency(); ++i) {
    busy.emplace_back([&] {
      while (!ended) continue;
    });
  }
  const std::vector<std::string> words = arguments(scratch / "run", {"--steps", "3", "--betas", "x"});
  std::vector<std::string> all{"-n", "1", "nice", "-n", "19", CAROUSEL_RUN_DIR "/carousel"};
  all.insert(all.end(), words.begin(), words.end());
  all.push_back(":");
  const std::vector<std::string> second = launch(1, words);
  all.insert(all.end(), second.begin(), second.end());
  Process job(CAROUSEL_MPIEXEC, all, -1);
  EXPECT_EQ(job.wait(), 2);
  ended = true;
  for (std::thread& one : busy) one.join();
  EXPECT_EQ(errors_in(job.err()), 1) << job.err();
}

// Rank 0 alone opens the log: the others wait for it.
TEST_F(TrainMpi, AnErrorOfOneProcessEndsAll) {
  const std::string out = scratch / "run";
  fs::create_directories(out + "/log.jsonl");
  Started job(4, arguments(out, {"--steps", "3"}));
  EXPECT_EQ(job.wait(), 1);
  EXPECT_EQ(errors_in(job.err()), 1) << job.err();
  EXPECT_NE(job.err().find("log.jsonl: cannot create"), std::string::npos) << job.err();
}

#endif

// As another MPI's launcher would start it, or any launcher a build without MPI.
TEST_F(TrainProcesses, AProcessThatFindsNoOthersIsRefused) {
#ifdef CAROUSEL_MPIEXEC
  prepare_launcher();
#endif
  setenv("PMI_SIZE", "2", 1);
  setenv("PMI_RANK", "0", 1);
  Process process(arguments(scratch / "run", {"--steps", "3"}));
  unsetenv("PMI_SIZE");
  unsetenv("PMI_RANK");
  EXPECT_EQ(process.wait(), 1);
  EXPECT_EQ(errors_in(process.err()), 1) << process.err();
  EXPECT_NE(process.err().find("started as one of 2 processes, but"), std::string::npos) << process.err();
  EXPECT_FALSE(fs::exists(scratch / "run"));
}

}  // namespace
}  // namespace carousel::cli
