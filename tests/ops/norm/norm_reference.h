// SPDX-License-Identifier: Apache-2.0
// The norms in f64, as their papers write them.
#pragma once

#include <cmath>
#include <vector>

#include "carousel/ops/norm/norm.h"

namespace carousel {

/// Weight and bias [H*Dv]; empty: none.
struct NormValues {
  std::vector<double> weight, bias;
};

/// The norm of `width` values of x from `first` on; `column` is the first one's place in weight and bias.
inline std::vector<double> normed_reference(const std::vector<double>& x, size_t first, size_t width,
                                            const ops::Norm& norm, const NormValues& values, size_t column) {
  using Kind = ops::Norm::Kind;
  std::vector<double> y(x.begin() + static_cast<std::ptrdiff_t>(first),
                        x.begin() + static_cast<std::ptrdiff_t>(first + width));
  double mean = 0, squares = 0;
  for (const double v : y) mean += v / double(width);
  if (norm.kind != Kind::kLayer) mean = 0;
  for (const double v : y) squares += (v - mean) * (v - mean) / double(width);
  if (norm.kind != Kind::kNone) {
    for (double& v : y) v = (v - mean) / std::sqrt(squares + double{norm.eps});
  }
  for (size_t j = 0; j < width; ++j) {
    if (!values.weight.empty()) y[j] *= values.weight[column + j] + double{norm.weight_offset};
    if (!values.bias.empty()) y[j] += values.bias[column + j];
  }
  return y;
}

}  // namespace carousel
