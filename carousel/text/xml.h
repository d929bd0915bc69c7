// SPDX-License-Identifier: Apache-2.0
// Text as XML 1.0 and so SVG may hold it.
#pragma once

#include <string>
#include <string_view>

namespace carousel::text {

/// Any bytes as the content of an element or of an attribute in either quotes: markup escaped, line breaks and tabs as
/// blanks, U+FFFD for invalid UTF-8 and for the characters XML forbids (controls, U+FFFE, U+FFFF).
std::string xml_text(std::string_view text);

}  // namespace carousel::text
