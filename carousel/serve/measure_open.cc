// SPDX-License-Identifier: Apache-2.0
// Many open streams cost memory and time, and one that is left gives its place back: these lines measure how much and
// how soon.
#include <malloc.h>
#include <unistd.h>

#include <fstream>

#include "carousel/serve/measure_lines.h"

namespace carousel::serve {
namespace {

constexpr int64_t kRunning = 64;  // streams that get tokens; the others wait for a place

/// Bytes of this process that are in memory.
double resident_bytes() {
  malloc_trim(0);  // what earlier work has freed is not to be taken again unseen
  double pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// Streams of which kRunning run and the others are open and wait. The callers' own memory counts as the server's.
class Open {
 public:
  explicit Open(const Setting& setting) : setting_(setting), server_(setting.serve()) {
    begin_endless(setting, *server_, callers_, std::min(kRunning, setting.options.open_streams));
    const double before = resident_bytes();
    const auto running = static_cast<int64_t>(callers_.size());
    for (int64_t i = running; i < setting.options.open_streams; ++i) {
      call(*server_, callers_, setting.body(8, kEndless, static_cast<uint64_t>(i)));
    }
    const EngineFigures& figures = server_->figures();
    read_until(
        callers_, [&] { return figures.running + figures.waiting >= setting.options.open_streams; }, setting.stop, 1);
    const auto more = static_cast<double>(std::max<int64_t>(setting.options.open_streams - running, 1));
    bytes_ = (resident_bytes() - before) / more;
  }
  double bytes() const { return bytes_; }
  /// The milliseconds of one request that is answered at once.
  double health_ms() {
    const auto begin = std::chrono::steady_clock::now();
    callers_.push_back(std::make_unique<Caller>(server_->port()));
    Caller& caller = *callers_.back();
    caller.ask("GET", "/health");
    read_until(
        callers_, [&] { return caller.ended(); }, setting_.stop);
    callers_.pop_back();
    return ms_since(begin);
  }

 private:
  const Setting& setting_;
  std::unique_ptr<Loopback> server_;
  Callers callers_;
  double bytes_ = 0;
};

/// Every round opens all streams anew: memory that was freed would hold them for nothing.
class OpenMemory : public Line {
 public:
  explicit OpenMemory(const Setting& setting) : setting_(setting) {}
  Pair round(uint64_t) override {
    constexpr double kKiB = 1024;
    return {Open(setting_).bytes() / kKiB, 16};
  }

 private:
  const Setting& setting_;
};

class OpenHealth : public Line {
 public:
  explicit OpenHealth(const Setting& setting) : setting_(setting), open_(setting) {}
  Pair round(uint64_t) override {
    std::vector<double> times;
    for (int64_t i = 0; i < 4 * setting_.options.repeats; ++i) times.push_back(open_.health_ms());
    return {quantile(times, 0.99), 20};
  }

 private:
  const Setting& setting_;
  Open open_;
};

/// One of nine streams leaves, again and again.
class Disconnect : public Line {
 public:
  explicit Disconnect(const Setting& setting) : setting_(setting), server_(setting.serve()) {
    begin_endless(setting, *server_, neighbours_, kNeighbours);
  }
  Pair round(uint64_t) override {
    std::vector<double> freed, ticks;
    const EngineFigures& figures = server_->figures();
    for (int64_t i = 0; i < setting_.options.repeats; ++i) {
      neighbours_.push_back(std::make_unique<Caller>(server_->port()));
      Caller& leaver = *neighbours_.back();
      leaver.note_times();
      leaver.ask("POST", "/v1/completions", setting_.body(8, kEndless, static_cast<uint64_t>(i)));
      read_until(
          neighbours_, [&] { return leaver.events() >= kEvents && figures.running > kNeighbours; }, setting_.stop, 1);
      ticks.push_back(median(gaps(leaver.times(), 0)));
      const auto begin = std::chrono::steady_clock::now();
      neighbours_.pop_back();  // closes the connection
      read_until(
          neighbours_, [&] { return figures.running <= kNeighbours; }, setting_.stop, 1);
      freed.push_back(ms_since(begin));
    }
    return {median(freed), median(ticks) + 50};
  }

 private:
  static constexpr int64_t kNeighbours = 8, kEvents = 8;
  const Setting& setting_;
  std::unique_ptr<Loopback> server_;
  Callers neighbours_;
};

}  // namespace

std::unique_ptr<Line> make_open_memory(const Setting& setting) { return std::make_unique<OpenMemory>(setting); }
std::unique_ptr<Line> make_open_health(const Setting& setting) { return std::make_unique<OpenHealth>(setting); }
std::unique_ptr<Line> make_disconnect(const Setting& setting) { return std::make_unique<Disconnect>(setting); }

}  // namespace carousel::serve
