// SPDX-License-Identifier: Apache-2.0
// Where the time of a forward goes: the ops it is made of, each beside the least time that it needs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "carousel/bench/costs.h"
#include "carousel/bench/runs.h"

namespace carousel::bench {

/// All calls of one op with one shape.
struct KernelTime {
  std::string op, shape;
  int64_t calls = 0;
  double seconds = 0;       // of all calls, the median of the rounds
  LeastTime least;          // of all calls; 0 seconds: no cost is known
  size_t cached_bytes = 0;  // that a thread reads again and again
};
struct KernelTimes {
  BenchTest test;
  double seconds = 0;               // of all ops, the median
  std::vector<KernelTime> kernels;  // the longest first
};

/// The ops of each test: of a whole prompt, or of a token for each sequence. Times are medians of all rounds, whether a
/// neighbour disturbed them or not. On a device apart they run one by one, each after the one before it has ended, and
/// a step is not recorded: their sum is more than a token's time.
/// `stop` ends the measuring with what was measured until then. Throws as check_memory().
std::vector<KernelTimes> time_kernels(const model::Lm& lm, const Stream& stream, const std::vector<BenchTest>& tests,
                                      int64_t rounds, const std::function<bool()>& stop);

}  // namespace carousel::bench
