// SPDX-License-Identifier: Apache-2.0
// The rates, the mean of losses, and the longest run of falling ones.
#include "carousel/train/rate_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace carousel::train {
namespace {

constexpr double kKept = 0.9;  // of the mean, a step
constexpr double kDiverged = 4;

}  // namespace

double RateSearch::rate() const {
  return kFirst * std::pow(kLast / kFirst, static_cast<double>(points_.size()) / (kSteps - 1));
}

void RateSearch::add(double loss) {
  mean_ = kKept * mean_ + (1 - kKept) * loss;
  const double weights = 1 - std::pow(kKept, static_cast<double>(points_.size() + 1));
  points_.push_back({rate(), mean_ / weights});
}

bool RateSearch::done() const {
  if (points_.empty()) return false;
  const auto least =
      std::min_element(points_.begin(), points_.end(), [](const Point& a, const Point& b) { return a.loss < b.loss; });
  return points_.size() >= kSteps || points_.back().loss > kDiverged * least->loss;
}

/// The longest run of points, not always neighbours, of which each has a lower loss than the one before: half way
/// between its first and its second third.
double RateSearch::valley() const {
  std::vector<size_t> lengths(points_.size(), 1);  // of the longest run that ends there
  size_t end = 0;
  for (size_t i = 1; i < points_.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (points_[i].loss < points_[j].loss) lengths[i] = std::max(lengths[i], lengths[j] + 1);
    }
    if (lengths[i] > lengths[end]) end = i;
  }
  const size_t start = end + 1 - std::min(end + 1, lengths[end]);
  const double third = static_cast<double>(end - start) / 3;
  return points_[start + static_cast<size_t>(third) + static_cast<size_t>(third / 2)].rate;
}

}  // namespace carousel::train
