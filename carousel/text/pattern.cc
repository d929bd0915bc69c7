// SPDX-License-Identifier: Apache-2.0
// Finds and replaces matches of a string or a regular expression.
#include "carousel/text/pattern.h"

#include <algorithm>

#include "carousel/core/error.h"

namespace carousel::text {

Pattern Pattern::from_json(const Json* json, const std::string& where) {
  if (json == nullptr) fail(ErrorKind::kInput, "{}: \"pattern\" is missing and has no default", where);
  Fields fields(*json, where + ".pattern");
  if (fields.has("Regex")) {
    const std::string source = fields.string("Regex");
    fields.finish();
    return regex(source, where);
  }
  Pattern pattern;
  pattern.where_ = where;
  pattern.literal_ = fields.string("String");
  fields.finish();
  if (pattern.literal_.empty()) fail(ErrorKind::kInput, "{}: \"pattern\" is empty, expected some text", where);
  return pattern;
}

Pattern Pattern::regex(const std::string& pattern, const std::string& where) {
  Pattern out;
  out.where_ = where;
  out.regex_.emplace(pattern, where);
  return out;
}

void Pattern::each_match(std::string_view text, const std::function<void(size_t, size_t)>& found) const {
  if (regex_) return regex_->each_match(text, found);
  for (size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, at + literal_.size())) {
    found(at, at + literal_.size());
  }
}

std::string Pattern::replace(std::string_view text, std::string_view content, size_t max_bytes, size_t* origin) const {
  if (text.empty()) return {};  // the reference library looks for nothing in nothing, not even for ^
  std::string out;
  size_t copied = 0;
  const size_t old_origin = origin == nullptr ? 0 : *origin;
  size_t new_origin = 0;
  const auto copy_until = [&](size_t end) {
    out.append(text.substr(copied, end - copied));
    if (copied < old_origin) new_origin += std::min(end, old_origin) - copied;
  };
  each_match(text, [&](size_t begin, size_t end) {
    copy_until(begin);
    out.append(content);
    if (end <= old_origin) new_origin += content.size();  // it stands where the last of the match stood
    copied = end;
    if (out.size() > max_bytes) {
      fail(ErrorKind::kInput, "{}: replacements make {} bytes of text more than {}", where_, text.size(), max_bytes);
    }
  });
  copy_until(text.size());
  if (origin != nullptr) *origin = new_origin;
  return out;
}

}  // namespace carousel::text
