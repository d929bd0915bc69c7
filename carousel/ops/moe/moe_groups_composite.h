// SPDX-License-Identifier: Apache-2.0
// Rows grouped by the expert that they chose, for the products of a mixture and of its gradient.
#pragma once

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/cpu/workspace.h"

namespace carousel::cpu {

// Rows one expert takes at a time: bounds its activations, and changes no bit since rows are independent.
constexpr int64_t kMaxGroup = 512;

/// The slots n * k + i of every row and choice, by expert and then by row.
struct MoeGroups {
  int32_t* ends;   // [E]: expert e has slots[ends[e - 1] .. ends[e]]
  int32_t* slots;  // [N * k]

  MoeGroups(int64_t experts, int64_t count, Workspace* workspace)
      : ends(workspace->take<int32_t>(experts)), slots(workspace->take<int32_t>(count)) {}

  /// chosen [count] experts. Throws kShape where one of them is none of `experts`.
  void fill(const int32_t* chosen, int64_t count, int64_t experts) const {
    std::fill_n(ends, experts, 0);
    for (int64_t slot = 0; slot < count; ++slot) {
      const int32_t expert = chosen[slot];
      if (expert < 0 || expert >= experts) {
        fail(ErrorKind::kShape, "ops::moe: route {} chooses expert {}, expected 0 to {}", slot, expert, experts - 1);
      }
      ++ends[expert];
    }
    int32_t first = 0;
    for (int64_t e = 0; e < experts; ++e) {  // counts become the places to fill, and those, once filled, the ends
      const int32_t rows = ends[e];
      ends[e] = first;
      first += rows;
    }
    for (int64_t slot = 0; slot < count; ++slot) slots[ends[chosen[slot]]++] = static_cast<int32_t>(slot);
  }

  /// Calls f(e, begin, count) for every expert's slots [begin, begin + count), at most kMaxGroup at a time.
  template <class F>
  void each(int64_t experts, F&& f) const {
    int64_t begin = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t end = ends[e];
      for (; begin < end; begin += kMaxGroup) f(e, begin, std::min(kMaxGroup, end - begin));
      begin = end;
    }
  }
};

}  // namespace carousel::cpu
