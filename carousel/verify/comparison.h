// SPDX-License-Identifier: Apache-2.0
// What comparing one expected tensor gave.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "carousel/core/state.h"

namespace carousel::verify {

/// All is computed in float32: independent implementations of one formula agree to 1e-7 .. 8e-6; another formula does
/// not.
constexpr double kTolerance = 2e-5;
/// Where matrices and what they multiply are rounded to bf16 or f16: what the layers of the cases add up to, each
/// product being within 1e-2 of its size (docs/numerics.md); 6e-2 is seen. A router whose scores nearly tie then
/// chooses another expert for a row: 1.2e-1 is seen.
constexpr double kRoundedTolerance = 1e-1, kRoutedTolerance = 2e-1;

/// The outcome for one expected tensor.
struct Comparison {
  enum class Status { kOk, kFail, kSkip };
  std::string name;
  Status status = Status::kSkip;
  double relative = 0;  // L2 norm of the difference over that of the expectation, by the worst way of computing it
  double largest = 0;   // largest absolute difference
  std::string note;     // why it was skipped, or what failed
};

/// Whether two batches of states have the same bits.
bool same_states(const std::vector<State>& a, const std::vector<State>& b, const StateLayout& layout);

/// One way of computing a tensor.
struct Attempt {
  std::string way;  // the note of a failure
  double tolerance = kTolerance;
};
/// Adds one more way of computing a tensor to its comparison, which keeps the worst; a NaN stays.
void fold(Comparison& out, const float* got, const float* want, size_t count, const Attempt& attempt);

}  // namespace carousel::verify
