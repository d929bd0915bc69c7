// SPDX-License-Identifier: Apache-2.0
// A progress bar on standard error with rate and time left; silent when that is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace carousel::cli {

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

/// "1,234,567"
std::string with_commas(int64_t value);
/// "128.25 MiB"
std::string in_binary_units(double bytes);

}  // namespace carousel::cli
