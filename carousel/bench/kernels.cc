// SPDX-License-Identifier: Apache-2.0
// Notes the ops of forwards by the watch of a stream, and sums them by op and shape.
#include "carousel/bench/kernels.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "carousel/bench/kernel_costs.h"
#include "carousel/core/quantile.h"

namespace carousel::bench {
namespace {

constexpr int64_t kMostAttempts = 3;  // so many samples for each round asked for

/// Notes the ops of forwards, and not what they are made of.
class Notes : public OpWatch {
 public:
  explicit Notes(const Stream& stream) : stream_(stream) {}

  void begin(const char* op, const void* args) override {
    if (!noting_ || depth_++ > 0) return;
    const KernelCall described = describe_call(stream_, op, args);
    calls_.push_back({op, described.shape, described.cost, nullptr, nullptr});
    calls_.back().begin = stream_.memory->moment();
  }
  void end() override {
    if (!noting_ || --depth_ > 0) return;
    calls_.back().end = stream_.memory->moment();
  }

  void start() { noting_ = true; }
  /// Ends a forward; returns the seconds of its ops.
  double finish() {
    noting_ = false;
    std::map<Key, double> seconds;
    std::map<Key, KernelTime> kernels;
    double whole = 0;
    for (const Call& call : calls_) {
      const double one = call.end->seconds_since(*call.begin);
      const Key key = {call.op, call.shape};
      seconds[key] += one;
      whole += one;
      KernelTime& kernel = kernels[key];
      kernel.op = call.op;
      kernel.shape = call.shape;
      ++kernel.calls;
      costs_[key] = call.cost;
    }
    for (const auto& [key, value] : seconds) seconds_[key].push_back(value);
    if (!kernels.empty()) kernels_ = std::move(kernels);
    calls_.clear();
    wholes_.push_back(whole);
    return whole;
  }
  /// What was noted, beside the rates that `samples` were taken with.
  KernelTimes table(const BenchTest& test, const Samples& samples) const {
    KernelTimes table;
    table.test = test;
    table.seconds = median(wholes_);
    for (const auto& [key, kernel] : kernels_) {
      table.kernels.push_back(kernel);
      table.kernels.back().seconds = median(seconds_.at(key));
      table.kernels.back().least = least_time(costs_.at(key), samples);
      table.kernels.back().least.seconds *= static_cast<double>(kernel.calls);
    }
    std::stable_sort(table.kernels.begin(), table.kernels.end(),
                     [](const KernelTime& a, const KernelTime& b) { return a.seconds > b.seconds; });
    return table;
  }

 private:
  using Key = std::pair<std::string, std::string>;  // op and shape
  struct Call {
    std::string op, shape;
    Cost cost;
    std::unique_ptr<Moment> begin, end;
  };
  const Stream& stream_;
  bool noting_ = false;
  int depth_ = 0;  // ops that have begun and not ended
  std::vector<Call> calls_;
  std::map<Key, std::vector<double>> seconds_;  // of each forward
  std::map<Key, Cost> costs_;                   // of one call
  std::map<Key, KernelTime> kernels_;           // of the last forward
  std::vector<double> wholes_;
};

Stream watched_by(OpWatch& watch, Stream stream) {
  stream.watch = &watch;
  return stream;
}

/// One test, whose ops are noted.
struct Watched {
  Watched(const model::Lm& lm, const Stream& plain, const BenchTest& what)
      : test(what), notes(plain), stream(watched_by(notes, plain)), runner(lm, stream) {}

  BenchTest test;
  Notes notes;
  Stream stream;
  model::Runner runner;
  State start;
};

}  // namespace

std::vector<KernelTimes> time_kernels(const model::Lm& lm, const Stream& stream, std::vector<BenchTest> tests,
                                      int64_t rounds, const std::function<bool()>& stop) {
  for (BenchTest& test : tests) test.tokens = test.decode ? 1 : test.tokens;
  check_memory(lm, stream, tests);
  std::vector<std::unique_ptr<Watched>> watched;
  std::vector<Sampled> what;
  for (const BenchTest& test : tests) {
    Watched& one = *watched.emplace_back(std::make_unique<Watched>(lm, stream, test));
    one.runner.prefill(random_tokens(test.depth, lm.vocab_size()), one.start, stop);
    if (stop()) break;
    const std::vector<int32_t> tokens = random_tokens(test.tokens * test.batch, lm.vocab_size());
    const auto run = [&lm, &one, tokens, stop] {
      return run_once(one.runner, lm.state_layout(), one.test, one.start, tokens, stop);
    };
    run();  // untimed: memory is allocated and every page touched
    Sampled sampled;
    sampled.needs_bf16 = sampled.needs_int8 = true;
    sampled.run = [&one, run, stop] {
      one.notes.start();
      const double seconds = run();
      return stop() ? seconds : one.notes.finish();
    };
    what.push_back(sampled);
  }
  const std::vector<Samples> samples = take_samples(what, stream, rounds, kMostAttempts * rounds, stop);
  std::vector<KernelTimes> tables;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (!samples[i].empty()) tables.push_back(watched[i]->notes.table(watched[i]->test, samples[i]));
  }
  return tables;
}

}  // namespace carousel::bench
