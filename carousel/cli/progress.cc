// SPDX-License-Identifier: Apache-2.0
// The progress bar, notes and errors on standard error.
#include "carousel/cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "carousel/cli/signals.h"

namespace carousel::cli {
namespace {

constexpr int kBarCells = 30;
constexpr auto kInterval = std::chrono::milliseconds(100);

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

Progress::Progress(std::string unit, int64_t total)
    : unit_(std::move(unit)),
      total_(std::max<int64_t>(1, total)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (terminal_) std::fputs("\r\x1b[K", stderr);
}

void Progress::update(int64_t done) {
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || (done < total_ && now - shown_ < kInterval)) return;
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double share = static_cast<double>(done) / static_cast<double>(total_);
  const auto cells = static_cast<size_t>(share * kBarCells);
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const std::string left = rate > 0 ? clock_text(static_cast<double>(total_ - done) / rate) : "?";
  const std::string bar =
      fmt::format("\r\x1b[K[{:<{}}] {:3.0f}%  {}/{} {}  {:.0f}/s  {} left", std::string(cells, '#'), kBarCells,
                  share * 100, with_commas(done), with_commas(total_), unit_, rate, left);
  std::fputs(bar.c_str(), stderr);
  std::fflush(stderr);
}

std::function<void(int64_t done, int64_t total)> progress_bar(const std::string& unit) {
  const auto bar = std::make_shared<std::unique_ptr<Progress>>();  // a function must be copyable
  return [unit, bar](int64_t done, int64_t total) {
    if (done >= total) return bar->reset();
    if (*bar == nullptr) *bar = std::make_unique<Progress>(unit, total);
    (*bar)->update(done);
  };
}

void note(const std::string& line) { write_all(STDERR_FILENO, line + "\n"); }

void note_error(std::string message) {
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  note("carousel: error: " + message);
}

std::string with_commas(int64_t value) {
  std::string digits = std::to_string(value);
  const int64_t first = value < 0 ? 1 : 0;
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > first; i -= 3)
    digits.insert(static_cast<size_t>(i), 1, ',');
  return digits;
}

}  // namespace carousel::cli
