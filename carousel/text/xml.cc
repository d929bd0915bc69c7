// SPDX-License-Identifier: Apache-2.0
#include "carousel/text/xml.h"

#include "carousel/text/unicode.h"

namespace carousel::text {

std::string xml_text(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const Decoded decoded = decode_utf8(text, pos);
    const std::string_view bytes = text.substr(pos, decoded.size);
    pos += decoded.size;
    const bool blank = decoded.code == '\t' || decoded.code == '\n' || decoded.code == '\r';
    const bool forbidden = (decoded.code < 0x20 && !blank) || decoded.code == 0xFFFE || decoded.code == 0xFFFF;
    if (!decoded.valid || forbidden) {
      out += kReplacement;
    } else if (blank) {
      out += ' ';
    } else if (decoded.code == '<') {
      out += "&lt;";
    } else if (decoded.code == '>') {
      out += "&gt;";
    } else if (decoded.code == '&') {
      out += "&amp;";
    } else if (decoded.code == '"') {
      out += "&quot;";
    } else if (decoded.code == '\'') {
      out += "&#39;";
    } else {
      out += bytes;
    }
  }
  return out;
}

}  // namespace carousel::text
