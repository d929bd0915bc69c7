// SPDX-License-Identifier: Apache-2.0
// Quantiles of samples.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace carousel {

/// The value that `share` of all values do not exceed; 0 without any.
inline double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
  return values[std::clamp<size_t>(at, 1, values.size()) - 1];
}

/// The middle value, or the mean of the middle two; 0 without any.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace carousel
