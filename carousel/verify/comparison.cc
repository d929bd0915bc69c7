// SPDX-License-Identifier: Apache-2.0
// How far values may be from what is expected.
#include "carousel/verify/comparison.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "carousel/verify/drift.h"

namespace carousel::verify {

bool same_states(const std::vector<State>& a, const std::vector<State>& b, const StateLayout& layout) {
  for (size_t s = 0; s < a.size(); ++s) {
    const NamedTensors in_a = a[s].tensors(layout), in_b = b[s].tensors(layout);
    for (size_t i = 0; i < in_a.size(); ++i) {
      const size_t bytes = in_a[i].tensor.size_bytes();
      if (bytes != in_b[i].tensor.size_bytes()) return false;
      if (bytes > 0 && std::memcmp(in_a[i].tensor.raw(), in_b[i].tensor.raw(), bytes) != 0) return false;
    }
  }
  return true;
}

void fold(Comparison& out, const float* got, const float* want, size_t count, const Attempt& attempt) {
  Drift drift;
  drift.add(want, got, static_cast<int64_t>(count));
  const double relative = drift.relative();
  if (out.status == Comparison::Status::kSkip) out.status = Comparison::Status::kOk;
  if (!std::isnan(out.relative) && !(relative <= out.relative)) out.relative = relative;
  if (!std::isnan(out.largest) && !(drift.largest <= out.largest)) out.largest = drift.largest;
  if (!(relative <= attempt.tolerance) && out.status == Comparison::Status::kOk) {
    out.status = Comparison::Status::kFail;
    out.note = attempt.way;
  }
}

}  // namespace carousel::verify
