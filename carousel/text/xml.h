// SPDX-License-Identifier: Apache-2.0
// Text for XML 1.0, and so for SVG.
#pragma once

#include <string>
#include <string_view>

namespace carousel::text {

/// Any bytes as the content of an element, or of an attribute in either quotes: markup is escaped, line breaks and tabs
/// become blanks, invalid UTF-8 and characters that XML forbids (controls, U+FFFE, U+FFFF) become U+FFFD.
std::string xml_text(std::string_view text);

}  // namespace carousel::text
