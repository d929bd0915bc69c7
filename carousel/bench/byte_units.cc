// SPDX-License-Identifier: Apache-2.0
#include "carousel/bench/byte_units.h"

#include <fmt/format.h>

#include <iterator>

namespace carousel::bench {

std::string in_binary_units(double bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} bytes", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

}  // namespace carousel::bench
