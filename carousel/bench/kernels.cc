// SPDX-License-Identifier: Apache-2.0
// The watch of a stream notes the ops of forwards here; they are summed by op and shape.
#include "carousel/bench/kernels.h"

#include <algorithm>
#include <exception>
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
  /// It may run while an error passes, and throws none of its own then.
  void end() override {
    if (!noting_ || --depth_ > 0) return;
    try {
      calls_.back().end = stream_.memory->moment();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void start() { noting_ = true; }
  /// Ends a forward whose times do not count; returns the most bytes that a thread reads again and again.
  size_t finish_untimed() {
    noting_ = false;
    size_t most = 0;
    for (const Call& call : calls_) most = std::max(most, call.cost.cached_bytes);
    calls_.clear();
    return most;
  }
  /// Ends a forward; returns the seconds of its ops.
  double finish() {
    noting_ = false;
    if (failure_) std::rethrow_exception(failure_);
    std::map<Key, double> seconds;
    double whole = 0;
    kernels_.clear();
    for (const Call& call : calls_) {
      const double one = call.end->seconds_since(*call.begin);
      const Key key = {call.op, call.shape};
      seconds[key] += one;
      whole += one;
      ++kernels_[key].calls;
      kernels_[key].cost += call.cost;
    }
    for (const auto& [key, value] : seconds) seconds_[key].push_back(value);
    calls_.clear();
    wholes_.push_back(whole);
    return whole;
  }
  /// The ops that were noted, beside the rates that `samples` were taken with.
  KernelTimes table(const BenchTest& test, const Samples& samples) const {
    KernelTimes table;
    table.test = test;
    table.seconds = median(wholes_);
    for (const auto& [key, kernel] : kernels_) {
      table.kernels.push_back({key.first, key.second, kernel.calls, median(seconds_.at(key)),
                               least_time(kernel.cost, samples), kernel.cost.cached_bytes});
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
  struct Kernel {
    int64_t calls = 0;
    Cost cost;  // of all of them: calls of one shape may differ in it
  };
  const Stream& stream_;
  bool noting_ = false;
  int depth_ = 0;  // ops that have begun and not ended
  std::exception_ptr failure_;
  std::vector<Call> calls_;
  std::map<Key, std::vector<double>> seconds_;  // of each forward
  std::map<Key, Kernel> kernels_;               // of the last forward
  std::vector<double> wholes_;
};

/// One test, whose ops are noted.
struct Watched {
  BenchTest test;
  Notes notes;
  State start;
};

/// The tests with a token for each sequence; those that differ in the number of tokens are one.
std::vector<BenchTest> forwards_of(std::vector<BenchTest> tests) {
  std::vector<BenchTest> kept;
  for (BenchTest& test : tests) {
    if (test.decode) test.tokens = 1;
    const auto same = [&](const BenchTest& other) {
      return other.decode == test.decode && other.tokens == test.tokens && other.depth == test.depth &&
             other.batch == test.batch;
    };
    if (std::none_of(kept.begin(), kept.end(), same)) kept.push_back(test);
  }
  return kept;
}

}  // namespace

std::vector<KernelTimes> time_kernels(const model::Lm& lm, const Stream& stream, const std::vector<BenchTest>& tests,
                                      int64_t rounds, const std::function<bool()>& stop) {
  const std::vector<BenchTest> forwards = forwards_of(tests);
  check_memory(lm, stream, forwards);
  Stream noted = stream;  // its watch is the one of the test that runs
  model::Runner runner(lm, noted);
  std::vector<std::unique_ptr<Watched>> watched;
  std::vector<Sampled> what;
  for (const BenchTest& test : forwards) {
    Watched& one = *watched.emplace_back(std::make_unique<Watched>(Watched{test, Notes(stream), State()}));
    noted.watch = nullptr;
    runner.stop_when({});
    runner.prefill(random_tokens(test.depth, lm.vocab_size()), one.start, stop);
    if (stop()) break;
    const std::vector<int32_t> tokens = random_tokens(test.tokens * test.batch, lm.vocab_size());
    const auto run = [&, tokens] {
      noted.watch = &one.notes;
      one.notes.start();
      return run_once(runner, lm.state_layout(), one.test, one.start, tokens, stop);
    };
    run();  // memory is allocated and every page touched
    Sampled sampled;
    sampled.cached_bytes = one.notes.finish_untimed();
    sampled.needs_bf16 = sampled.needs_int8 = true;
    sampled.run = [&one, run, stop] {
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
