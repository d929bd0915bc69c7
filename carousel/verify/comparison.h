// SPDX-License-Identifier: Apache-2.0
// What comparing one expected tensor gave.
#pragma once

#include <cstddef>
#include <string>

namespace carousel::verify {

/// All is computed in float32: independent implementations of one formula agree to 1e-7 .. 8e-6; another formula does
/// not.
constexpr double kTolerance = 2e-5;

/// The outcome for one expected tensor.
struct Comparison {
  enum class Status { kOk, kFail, kSkip };
  std::string name;
  Status status = Status::kSkip;
  double relative = 0;  // L2 norm of the difference over that of the expectation, by the worst way of computing it
  double largest = 0;   // largest absolute difference
  std::string note;     // why it was skipped, or what failed
};

/// Adds one more way of computing a tensor to its comparison, which keeps the worst; a NaN stays. `way` becomes the
/// note of a failure.
void fold(Comparison& out, const float* got, const float* want, size_t count, const std::string& way);

}  // namespace carousel::verify
