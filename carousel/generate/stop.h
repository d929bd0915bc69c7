// SPDX-License-Identifier: Apache-2.0
// Stop strings in streamed text. Text that could still become a stop string is held back until that is decided.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace carousel::generate {

class StopScanner {
 public:
  /// Empty strings are ignored.
  explicit StopScanner(std::vector<std::string> stops);

  /// Takes the next piece of text and appends to `out` the text that can no longer be part of a stop string. True: a
  /// stop string is complete; it and the text behind it are dropped. Among several it is the one that ends first, then
  /// the longest.
  bool feed(std::string_view text, std::string& out);
  /// Ends the text: appends the text that was held back.
  void flush(std::string& out);

 private:
  size_t held_prefix() const;

  std::vector<std::string> stops_;
  size_t longest_ = 0;
  std::string held_;
};

}  // namespace carousel::generate
