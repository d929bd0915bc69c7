// SPDX-License-Identifier: Apache-2.0
// The "normalizer" of a tokenizer.json, which changes text before it is split.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/text/pattern.h"

namespace carousel::text {

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  /// From the file's value; null changes nothing. Throws Error(kInput), unsupported types by name.
  Normalizer(const Json& json, const std::string& where);

  bool empty() const { return steps_.empty(); }
  /// Returns the normalized `text`, which must be valid UTF-8. `origin`, unless null, is the number of bytes at the
  /// beginning of `text` that stand for the first character of the whole input; the call sets it to the number of bytes
  /// of the result that do.
  std::string apply(std::string_view text, size_t* origin = nullptr) const;

 private:
  enum class Kind : uint8_t { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kPrepend, kReplace, kStrip, kStripAccents };
  struct Step {
    Kind kind;
    std::string text;                // kPrepend: the text; kReplace: the new text
    std::optional<Pattern> pattern;  // kReplace: the text to find
    bool left = false;               // kStrip: at the beginning
    bool right = false;
  };
  void add(size_t kind, Fields& fields);
  static std::string apply(const Step& step, std::string_view text, size_t max_bytes, size_t* origin);

  std::vector<Step> steps_;
};

}  // namespace carousel::text
