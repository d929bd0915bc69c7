// SPDX-License-Identifier: Apache-2.0
// The instruction sets that tests run through.
#pragma once

#include <vector>

#include "carousel/cpu/isa.h"
#include "tests/slow.h"

namespace carousel {

/// All that this machine runs. Under a sanitizer, where each takes minutes, the plain one and the best one: the sources
/// of the others are the same.
inline std::vector<Isa> tested_isas() {
  const std::vector<Isa> all = cpu::runnable_isas();
  if (!kSanitized || all.size() < 3) return all;
  return {all.front(), all.back()};
}

}  // namespace carousel
