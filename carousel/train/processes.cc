// SPDX-License-Identifier: Apache-2.0
// Where arrays and rows are cut.
#include "carousel/train/processes.h"

#include <algorithm>

namespace carousel::train {

Cuts cut_evenly(int64_t count, int size, std::span<const std::pair<int64_t, int64_t>> wholes) {
  Cuts cuts{0};
  for (int rank = 1; rank < size; ++rank) {
    int64_t cut = count / kCutElements * rank / size * kCutElements;
    for (const auto& [first, end] : wholes) {
      if (first < cut && cut < end) cut = cut - first <= end - cut ? first : end;
    }
    cuts.push_back(std::max(cut, cuts.back()));
  }
  cuts.push_back(count);
  return cuts;
}

Processes& Processes::alone() {
  static Processes alone;
  return alone;
}

bool Processes::any(bool value) {
  double count = value ? 1 : 0;
  sum({&count, 1});
  return count > 0;
}

std::pair<int64_t, int64_t> Processes::span_of(int64_t count) const {
  return {count * rank() / size(), count * (rank() + 1) / size()};
}

}  // namespace carousel::train
