// SPDX-License-Identifier: Apache-2.0
// A program run at a pseudo-terminal, as a person would at a keyboard.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "tests/comes_true.h"

namespace carousel::cli {

/// A program at a terminal of its own. It is killed once it takes longer than kPatience in all.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments) {
    pid_ = forkpty(&master_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    setenv("TERM", "vt100", 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Terminal() {
    if (!ended_) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
    close(master_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys) { EXPECT_EQ(write(master_, keys.data(), keys.size()), ssize_t(keys.size())); }
  /// Reads until `text` was shown since the last call; false when the program ended, or took too long, without it.
  bool shows(const std::string& text) {
    for (;;) {
      const size_t at = shown_.find(text, seen_);
      if (at != std::string::npos) {
        seen_ = at + text.size();
        return true;
      }
      if (!read_more()) return false;
    }
  }
  const std::string& shown() const { return shown_; }
  pid_t pid() const { return pid_; }
  /// Its exit status; -1 when it was killed.
  int wait_end() {
    while (read_more()) {
    }
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() >= deadline_) kill(pid_, SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  bool read_more() {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - std::chrono::steady_clock::now());
    pollfd ready{master_, POLLIN, 0};
    if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) return false;
    char chunk[4096];
    const ssize_t count = read(master_, chunk, sizeof chunk);
    if (count <= 0) return false;  // the other end closed it
    shown_.append(chunk, static_cast<size_t>(count));
    return true;
  }

  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::now() + kPatience;
  int master_ = -1;
  pid_t pid_ = 0;
  bool ended_ = false;
  std::string shown_;
  size_t seen_ = 0;
};

}  // namespace carousel::cli
