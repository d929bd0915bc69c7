// SPDX-License-Identifier: Apache-2.0
// Sequences in the order in which they advance together: those still running are always the first ones.
#pragma once

#include <cstdint>

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// Sorts by falling `rows` (Shell's sort).
template <class Sequence>
void sort_longest_first(Sequence* out, int64_t count) {
  for (int64_t gap = count / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11) {
    for (int64_t i = gap; i < count; ++i) {
      const Sequence seq = out[i];
      int64_t place = i;
      for (; place >= gap && out[place - gap].rows < seq.rows; place -= gap) out[place] = out[place - gap];
      out[place] = seq;
    }
  }
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
