// SPDX-License-Identifier: Apache-2.0
// The pattern of Split and Replace: a string that is found literally, or a regular expression.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "carousel/core/json.h"
#include "carousel/text/regex.h"

namespace carousel::text {

class Pattern {
 public:
  /// From {"String": ...} or {"Regex": ...}. Throws Error(kInput).
  static Pattern from_json(const Json* json, const std::string& where);
  static Pattern regex(const std::string& pattern, const std::string& where);

  /// Calls found(begin, end) for every match, left to right.
  void each_match(std::string_view text, const std::function<void(size_t, size_t)>& found) const;
  /// `text` with every match replaced. Throws Error(kInput) when the result grows beyond `max_bytes`.
  /// `origin`, unless null, is that of Normalizer::apply.
  std::string replace(std::string_view text, std::string_view content, size_t max_bytes,
                      size_t* origin = nullptr) const;

 private:
  std::string literal_;
  std::optional<Regex> regex_;
  std::string where_;
};

}  // namespace carousel::text
