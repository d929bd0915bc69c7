// SPDX-License-Identifier: Apache-2.0
// Times one op at given shapes, and the least time that its operations and bytes need.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "carousel/bench/costs.h"

namespace carousel::bench {

/// Which op, and its shapes; a size of 0 is the op's default.
struct OpOptions {
  std::string op;                    // empty: none
  std::vector<int64_t> rows;         // rows of each sequence; empty: the op's default
  std::vector<int64_t> batch{1};     // numbers of sequences
  int64_t heads = 0;                 // heads of queries
  int64_t kv_heads = 0;              // heads of keys and values
  int64_t head_dim = 0;              // width of a head's queries and keys
  int64_t value_dim = 0;             // width of a head's values
  int64_t in = 0;                    // width of x
  int64_t out = 0;                   // width of the result
  int64_t taps = 0;                  // taps of a convolution
  std::vector<int64_t> sparsity{0};  // percent of the weights that a random wiring masks
  bool backward = false;             // time the gradient too
};

/// One call of an op, and what it needs at least.
struct OpCase : Cost {
  std::string shape;                // "B=8 T=512 H=4 d=256"
  size_t ring = 1;                  // copies of its operands, so many that together they exceed every cache
  std::function<void(size_t)> run;  // runs the call on copy i
  /// Runs the call on copy i under a tape, then the tape backwards; returns the seconds of the latter. Empty: not asked
  /// for.
  std::function<double(size_t)> backward;
};

/// The names of all ops.
std::vector<std::string> op_names();

/// The cases of `options`, whose op is one of op_names(): one per batch, rows and depth. `weights` is the type of the
/// op's weights, if it has any. Operands are in the stream's memory. Throws Error(kUsage) for shapes the op refuses,
/// Error(kDevice) for weights that the device does not take.
std::vector<OpCase> op_cases(const OpOptions& options, const std::vector<int64_t>& depths, DType weights,
                             const Stream& stream);

struct OpResult {
  double seconds = 0;                      // time of one call: the median of the undisturbed samples
  LeastTime least;                         // time of one call at its bound
  size_t samples = 0;                      // undisturbed samples; 0: stopped before there was one
  size_t rejected = 0;                     // samples a neighbour disturbed
  std::optional<double> backward_seconds;  // of one call's gradient, if timed; a head's is a difference, also below 0
};

/// Takes `rounds` undisturbed samples of each case, or as many as a limited number of attempts gives. `stop` ends the
/// measuring with the samples taken so far. A device that records runs recorded calls, and its moments time them.
/// Returns one result for each case.
std::vector<OpResult> measure_ops(const std::vector<OpCase>& cases, const Stream& stream, int64_t rounds,
                                  const std::function<bool()>& stop);

}  // namespace carousel::bench
