// SPDX-License-Identifier: Apache-2.0
// What commands tell on standard error beside their result: notes, and a progress bar with rate and time left, silent
// when that is no terminal.
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

/// Shows a bar while it is told (done, total): from the first call until done is total, or it is destroyed.
std::function<void(int64_t done, int64_t total)> progress_bar(const std::string& unit);

/// A line on standard error. That nobody can read it is no error: the result goes to standard output.
void note(const std::string& line);
/// "carousel: error: ..." in one line. Names from files and the command line may hold control characters: blanks.
void note_error(std::string message);

/// "1,234,567"
std::string with_commas(int64_t value);

}  // namespace carousel::cli
