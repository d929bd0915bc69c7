// SPDX-License-Identifier: Apache-2.0
// Regular expressions of tokenizer files. Oniguruma runs them, as it does in the reference library. We add Unicode 16
// (unicode_encoding.h) and limits: no pattern and no text can exhaust the stack or run without end.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace carousel::text {

/// An immutable compiled pattern; copies share it, and any number of threads may match with it.
class Regex {
 public:
  /// Throws Error(kInput) "where: ..." on a pattern that does not compile, or whose meaning here would differ.
  Regex(const std::string& pattern, const std::string& where);

  /// Calls found(begin, end) for each match in `text` (valid UTF-8), left to right, without overlap. An empty match
  /// right after the previous match is skipped. Throws Error(kInput) when a limit is met.
  void each_match(std::string_view text, const std::function<void(size_t, size_t)>& found) const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace carousel::text
