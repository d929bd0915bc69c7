// SPDX-License-Identifier: Apache-2.0
// How many rows a step takes, where that grows as a run goes on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace carousel::train {

class BatchRamp {
 public:
  /// Steps of `rows` rows each.
  explicit BatchRamp(int64_t rows) : parts_{{rows, 0}} {}
  /// "128@0,256@2000": 128 rows in steps 0 to 1999, then 256. Throws Error(kUsage) unless steps rise from 0 on.
  static BatchRamp parse(const std::string& text);

  int64_t at(int64_t step) const;    // rows of step 0, 1, ...
  int64_t most() const;              // of any step
  int64_t steps(double rows) const;  // the least number of steps that take so many rows, at least 1

 private:
  struct Part {
    int64_t rows, first_step;
  };
  std::vector<Part> parts_;
};

}  // namespace carousel::train
