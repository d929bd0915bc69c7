// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/params.h"

#include <cmath>

namespace carousel {

Init Init::small(int64_t dim) { return normal(std::sqrt(2.0 / (5.0 * static_cast<double>(dim)))); }

Init Init::wang(int64_t dim, int64_t layers) {
  return normal(2.0 / static_cast<double>(layers) / std::sqrt(static_cast<double>(dim)));
}

}  // namespace carousel
