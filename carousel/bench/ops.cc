// SPDX-License-Identifier: Apache-2.0
// Times the cases of one op, and finds for each the longest of the times that its parts need at least.
#include "carousel/bench/ops.h"

#include <algorithm>
#include <chrono>

#include "carousel/bench/samples.h"

namespace carousel::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostAttempts = 6;  // so many samples for each round asked for
constexpr double kSampleSeconds = 0.02;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

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
  std::vector<Sampled> what;
  for (size_t i = 0; i < cases.size(); ++i) {
    // Untimed: memory is allocated and every page touched. One call more than copies, because a result is made before
    // the one it replaces is freed.
    for (size_t slot = 0; slot <= cases[i].ring && !stop(); ++slot) cases[i].run(slot % cases[i].ring);
    what.push_back({[&, i] { return run_for(cases[i], kSampleSeconds, slots[i]); }, cases[i].cached_bytes,
                    cases[i].operations(Peak::kBF16) > 0, cases[i].operations(Peak::kInt8) > 0});
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
