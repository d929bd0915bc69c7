// SPDX-License-Identifier: Apache-2.0
// How far values may be from what is expected.
#include "carousel/verify/comparison.h"

#include <cmath>
#include <cstdint>

#include "carousel/verify/drift.h"

namespace carousel::verify {

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
