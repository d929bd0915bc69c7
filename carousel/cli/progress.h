// SPDX-License-Identifier: Apache-2.0
// Messages of commands on standard error: notes, and a progress bar with rate and time left, which is silent when
// standard error is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "carousel/bench/byte_units.h"

namespace carousel::cli {

using bench::in_binary_units;

class Progress {
 public:
  Progress(std::string unit, int64_t total);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(int64_t done);

 private:
  std::string unit_;
  int64_t total_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_, shown_;
};

/// Returns a function that shows a bar: from its first call until done is total, or until it is destroyed.
std::function<void(int64_t done, int64_t total)> progress_bar(const std::string& unit);

/// Writes a line to standard error. It ignores a failure: the result is on standard output.
void note(const std::string& line);
/// Writes "carousel: error: ..." in one line. Control characters, which names may hold, become blanks.
void note_error(std::string message);

/// "1,234,567"
std::string with_commas(int64_t value);

}  // namespace carousel::cli
