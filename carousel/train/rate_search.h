// SPDX-License-Identifier: Apache-2.0
// A range test of learning rates (Smith, arXiv:1506.01186): the rate rises by a constant factor a step, until the loss
// diverges. The rate to take lies in the longest valley of the loss, as fastai's `valley` has it.
#pragma once

#include <vector>

namespace carousel::train {

class RateSearch {
 public:
  static constexpr int kSteps = 100;
  static constexpr double kFirst = 1e-7, kLast = 10;

  struct Point {
    double rate, loss;  // the loss is a running mean
  };

  double rate() const;    // of the next step
  void add(double loss);  // of that step, before its update
  bool done() const;      // all steps are taken, or the mean is four times the least one
  double valley() const;  // two steps at least
  const std::vector<Point>& points() const { return points_; }

 private:
  std::vector<Point> points_;
  double mean_ = 0;  // exponential, not yet divided by its weights
};

}  // namespace carousel::train
