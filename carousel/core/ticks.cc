// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/ticks.h"

#include <cmath>
#include <initializer_list>

namespace carousel {

double tick_step(double span, int count) {
  const double raw = span / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

}  // namespace carousel
