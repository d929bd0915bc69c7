// SPDX-License-Identifier: Apache-2.0
// Times the cases of one op, and finds for each the longest of the times that its parts need at least.
#include "carousel/bench/ops.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "carousel/bench/samples.h"
#include "carousel/core/error.h"

namespace carousel::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostAttempts = 6;  // so many samples for each round asked for
constexpr double kSampleSeconds = 0.02;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A device runs what was recorded, some copies of a case in turn, so that the host is not what is timed.
class Recorded {
 public:
  /// Records as many copies as take about `seconds`, or all. They have run before, which allocates their memory.
  Recorded(const OpCase& test, Memory& memory, double seconds) : test_(test), memory_(memory) {
    test_.run(0);
    const auto calls = static_cast<size_t>(seconds / time(1, [&] { test_.run(0); })) + 1;
    copies_ = std::min(test.ring, calls);
    run_copies();
    run_copies();  // again, because a result is made before the one it replaces is freed
    try {
      recording_ = memory.record([&] { run_copies(); });
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kDevice) throw;  // else a kernel needs the host, whose time then counts
    }
  }
  /// Seconds of one call, of about `seconds` of calls.
  double run_for(double seconds) {
    const auto run = [&] { recording_ != nullptr ? recording_->run() : run_copies(); };
    const double once = time(1, run);
    const auto more = static_cast<int64_t>(seconds / once);
    return (more > 1 ? time(more, run) : once) / static_cast<double>(copies_);
  }

 private:
  void run_copies() {
    for (size_t slot = 0; slot < copies_; ++slot) test_.run(slot);
  }
  /// Seconds that the device takes for `work`, of `times` times.
  double time(int64_t times, const std::function<void()>& work) {
    const std::unique_ptr<Moment> begin = memory_.moment();
    for (int64_t i = 0; i < times; ++i) work();
    const std::unique_ptr<Moment> end = memory_.moment();
    return end->seconds_since(*begin) / static_cast<double>(times);
  }
  const OpCase& test_;
  Memory& memory_;
  size_t copies_ = 1;
  std::unique_ptr<Recording> recording_;
};

double run_for(const OpCase& test, double seconds, size_t& slot) {
  const auto start = Clock::now();
  int64_t calls = 0;
  do {
    test.run(slot);
    slot = (slot + 1) % test.ring;
    ++calls;
  } while (since(start) < seconds);
  return since(start) / static_cast<double>(calls);
}

double run_backward_for(const OpCase& test, double seconds, size_t& slot) {
  const auto start = Clock::now();
  double sum = 0;
  int64_t calls = 0;
  do {
    sum += test.backward(slot);
    slot = (slot + 1) % test.ring;
    ++calls;
  } while (since(start) < seconds);
  return sum / static_cast<double>(calls);
}

OpResult summarise(const OpCase& test, const Samples& samples) {
  OpResult result;
  if (samples.empty()) return result;
  result.samples = samples.quiet().size();
  result.rejected = samples.rejected();
  result.seconds = samples.median(&Sample::seconds);
  result.least = least_time(test, samples);
  return result;
}

}  // namespace

std::vector<OpResult> measure_ops(const std::vector<OpCase>& cases, const Stream& stream, int64_t rounds,
                                  const std::function<bool()>& stop) {
  std::vector<size_t> slots(cases.size(), 0);
  std::vector<std::unique_ptr<Recorded>> recorded(cases.size());
  std::vector<Sampled> what;
  for (size_t i = 0; i < cases.size(); ++i) {
    // Untimed: memory is allocated and every page touched. One call more than copies, because a result is made before
    // the one it replaces is freed.
    if (stop()) return std::vector<OpResult>(cases.size());
    if (stream.memory->is_apart()) {
      recorded[i] = std::make_unique<Recorded>(cases[i], *stream.memory, kSampleSeconds);
    } else {
      for (size_t slot = 0; slot <= cases[i].ring && !stop(); ++slot) cases[i].run(slot % cases[i].ring);
    }
    const auto run = [&, i] {
      return recorded[i] ? recorded[i]->run_for(kSampleSeconds) : run_for(cases[i], kSampleSeconds, slots[i]);
    };
    what.push_back(
        {run, cases[i].cached_bytes, cases[i].operations(Peak::kBF16) > 0, cases[i].operations(Peak::kInt8) > 0});
  }
  std::vector<size_t> backward;  // the cases whose gradients are timed
  for (size_t i = 0; i < cases.size() && !stop(); ++i) {
    if (!cases[i].backward) continue;
    cases[i].backward(0);
    backward.push_back(i);
    what.push_back({[&, i] { return run_backward_for(cases[i], kSampleSeconds, slots[i]); }});
  }
  const std::vector<Samples> samples = take_samples(what, stream, rounds, kMostAttempts * rounds, stop);
  std::vector<OpResult> results;
  for (size_t i = 0; i < cases.size(); ++i) results.push_back(summarise(cases[i], samples[i]));
  for (size_t b = 0; b < backward.size(); ++b) {
    const Samples& taken = samples[cases.size() + b];
    if (!taken.empty()) results[backward[b]].backward_seconds = taken.median(&Sample::seconds);
  }
  return results;
}

}  // namespace carousel::bench
