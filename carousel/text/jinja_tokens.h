// SPDX-License-Identifier: Apache-2.0
// The first half of reading Jinja: a template cut into text and the tokens between its delimiters, with the white space
// that chat templates are published for (trim_blocks and lstrip_blocks). Read next: jinja.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::text {

struct JinjaToken {
  enum class Kind {
    kText,        // what stands outside all delimiters
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kName,
    kString,  // without quotes, its escapes replaced
    kInteger,
    kOperator,
    kEnd,  // of the template
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int64_t line = 1;
};

/// The tokens of `source`, kEnd last. Comments are left out. Throws Error(kInput) that names the line: a delimiter or a
/// string without its end, a character or an escape that is not known.
std::vector<JinjaToken> jinja_tokens(std::string_view source);

}  // namespace carousel::text
