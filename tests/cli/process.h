// SPDX-License-Identifier: Apache-2.0
// A run of the built binary that goes on beside the test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/cli/run_command.h"
#include "tests/comes_true.h"

namespace carousel::cli {

/// `carousel arguments...`, standard input empty. It is killed with the object, and once it takes longer than
/// kPatience.
class Process {
 public:
  /// `out`: where standard output goes; -1: nowhere.
  explicit Process(const std::vector<std::string>& arguments, int out = -1)
      : Process(CAROUSEL_RUN_DIR "/carousel", arguments, out) {}
  /// Another program: the path to it.
  Process(const std::string& program, const std::vector<std::string>& arguments, int out) {
    std::vector<char*> argv{const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const std::string err = scratch_ / "err";
    pid_ = fork();
    if (pid_ != 0) return;
    const int nowhere = open("/dev/null", O_RDWR);
    dup2(nowhere, STDIN_FILENO);
    dup2(out < 0 ? nowhere : out, STDOUT_FILENO);
    dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Process() {
    if (!ended_) send(SIGKILL), wait();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal) const { kill(pid_, signal); }
  pid_t pid() const { return pid_; }
  /// Its exit status; -1 when it was killed.
  int wait() {
    int status = 0;
    if (!comes_true([&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) {
      ADD_FAILURE() << "does not end: " << err();
      send(SIGKILL);
      waitpid(pid_, &status, 0);
    }
    ended_ = true;
    ended_by_ = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  bool has_ended() const {
    siginfo_t info{};
    return ended_ ||
           (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0);
  }
  /// After wait(): the signal that killed it; 0: none did.
  int ended_by() const { return ended_by_; }
  std::string err() const { return read_file(scratch_ / "err"); }
  /// From what the kernel says: whether a handler is set for the signal.
  bool catches(int signal) const { return (mask("SigCgt:") >> (signal - 1) & 1) != 0; }
  bool sleeps() const { return field("State:").starts_with("S"); }

 private:
  std::string field(const std::string& key) const {
    const std::string status = read_file("/proc/" + std::to_string(pid_) + "/status");
    const size_t at = status.find(key);
    return at == status.npos ? "" : status.substr(status.find_first_not_of(" \t", at + key.size()));
  }
  unsigned long long mask(const std::string& key) const {
    const std::string text = field(key);
    return text.empty() ? 0 : std::stoull(text, nullptr, 16);
  }

  Scratch scratch_;
  pid_t pid_ = 0;
  bool ended_ = false;
  int ended_by_ = 0;
};

}  // namespace carousel::cli
