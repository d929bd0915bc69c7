// SPDX-License-Identifier: Apache-2.0
// The first half of reading Jinja: cuts a template into text and the tokens between its delimiters. White space is
// treated as chat templates expect (trim_blocks and lstrip_blocks). Read next: jinja.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::text {

struct JinjaToken {
  enum class Kind {
    kText,        // text outside all delimiters
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kName,
    kString,  // its text is without quotes, its escapes replaced
    kInteger,
    kOperator,
    kEnd,  // the end of the template
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int64_t line = 1;
};

/// The tokens of `source`, kEnd last. Comments are left out. Throws Error(kInput) that names the line: a delimiter or a
/// string without its end, a character or an escape that is not known.
std::vector<JinjaToken> jinja_tokens(std::string_view source);

}  // namespace carousel::text
