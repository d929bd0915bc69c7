// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/params.h"

#include <cmath>
#include <utility>

namespace carousel {

Init Init::copied(std::vector<float> values) {
  Init init{Kind::kCopied};
  init.values = std::make_shared<const std::vector<float>>(std::move(values));
  return init;
}

Init Init::small(int64_t dim) { return normal(std::sqrt(2.0 / (5.0 * static_cast<double>(dim)))); }

Init Init::wang(int64_t dim, int64_t layers) {
  return normal(2.0 / static_cast<double>(layers) / std::sqrt(static_cast<double>(dim)));
}

Init Init::read_by(double share) const {
  Init init = *this;
  init.read_share = share;
  return init;
}

Init Init::kept_in_f32() const {
  Init init = *this;
  init.keep_f32 = true;
  return init;
}

}  // namespace carousel
