// SPDX-License-Identifier: Apache-2.0
// Exponential means, which begin as plain ones.
#include "carousel/train/norm_history.h"

#include <algorithm>
#include <cmath>

namespace carousel::train {
namespace {

constexpr int64_t kFirst = 20;         // norms without a verdict
constexpr double kLeastWeight = 0.01;  // of the newest norm

}  // namespace

bool NormHistory::is_spike(double norm, double deviations) const {
  return count >= kFirst && norm > mean + deviations * std::sqrt(variance);
}

void NormHistory::add(double norm, double deviations) {
  if (is_spike(norm, deviations)) norm = mean + deviations * std::sqrt(variance);
  ++count;
  const double weight = std::max(kLeastWeight, 1 / static_cast<double>(count));
  const double step = norm - mean;
  mean += weight * step;
  variance = (1 - weight) * (variance + weight * step * step);
}

}  // namespace carousel::train
