// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/escapes.h"

#include <charconv>
#include <string_view>

namespace carousel::cli {

std::string process_escapes(const std::string& text) {
  constexpr std::string_view kNames = "ntr\\\"'";
  constexpr std::string_view kMeant = "\n\t\r\\\"'";
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t known = text[i] == '\\' && i + 1 < text.size() ? kNames.find(text[i + 1]) : std::string_view::npos;
    if (known != std::string_view::npos) {
      out += kMeant[known];
      ++i;
      continue;
    }
    unsigned byte = 0;
    const char* digits = text.data() + i + 2;
    const bool hex = text.compare(i, 2, "\\x") == 0 && i + 4 <= text.size();
    if (hex && std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      out += static_cast<char>(byte);
      i += 3;
    } else if (text[i] == '\\' && i + 1 < text.size()) {  // takes both characters, so that the second begins no escape
      out += text[i];
      out += text[++i];
    } else {
      out += text[i];
    }
  }
  return out;
}

void Escapes::add_option(CLI::App& app, const std::string& which) {
  app.add_flag("--no-escape", off, "Take the text of " + which + " as it stands, without escapes");
}

}  // namespace carousel::cli
