// SPDX-License-Identifier: Apache-2.0
// Stop strings in streamed text. What could still become one is held back until that is decided.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace carousel::generate {

class StopScanner {
 public:
  /// Empty strings are ignored.
  explicit StopScanner(std::vector<std::string> stops);

  /// Takes the next piece of text and appends to `out` what can no longer be part of a stop string. True: one is
  /// complete, of several the one that ended first (then the longest); it and what follows are dropped.
  bool feed(std::string_view text, std::string& out);
  /// The end of the text: appends what was held back.
  void flush(std::string& out);

 private:
  size_t held_prefix() const;

  std::vector<std::string> stops_;
  size_t longest_ = 0;
  std::string held_;
};

}  // namespace carousel::generate
