// SPDX-License-Identifier: Apache-2.0
// A one-pass reader for the two large members of a tokenizer.json, its vocabulary and merges: 400,000 strings that as a
// tree of values take longer to build than everything else. The small members go through carousel/core/json.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace carousel::text {

/// Reads JSON left to right. Every failure is Error(kInput) with the byte position. The text must be valid UTF-8.
class JsonScan {
 public:
  JsonScan(std::string_view text, size_t begin, size_t end, const std::string& where)
      : text_(text.substr(0, end)), pos_(begin), where_(where) {}

  char peek();                // next character after white space; '\0' at the end
  void expect(char c);        // takes c
  bool take(char c);          // takes c if it is next
  std::string_view string();  // valid until the next call
  int64_t integer();          // fits int64_t
  /// Skips one value of any type and returns its text; only balance and depth are checked.
  std::string_view skip();
  void finish();  // checks that only white space follows
  size_t position() const { return pos_; }
  [[noreturn]] void wrong(const char* expected) const;

 private:
  void skip_string();
  void escape();
  uint32_t hex4();

  std::string_view text_;
  size_t pos_;
  const std::string& where_;
  std::string unescaped_;
};

}  // namespace carousel::text
