// SPDX-License-Identifier: Apache-2.0
// The running mean and deviation of gradient norms, by which a spike is told from the rest.
#pragma once

#include <cstdint>

namespace carousel::train {

struct NormHistory {
  int64_t count = 0;    // norms seen
  double mean = 0;      // of the norms: all weigh the same at first, later the last hundred or so count most
  double variance = 0;  // of the norms, weighed alike

  /// Whether `norm` is more than `deviations` deviations above the mean. The first norms never are: they say what is
  /// usual.
  bool is_spike(double norm, double deviations) const;
  /// Takes a norm in. A spike counts as the largest norm that is none, so that one spike does not hide the next, and a
  /// lasting change of scale is accepted after some steps.
  void add(double norm, double deviations);
};

}  // namespace carousel::train
