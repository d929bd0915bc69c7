// SPDX-License-Identifier: Apache-2.0
// Joins and compares texts that may hold unknown letters.
#include "carousel/text/jinja_value.h"

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

// A macro may double a text with every call.
constexpr size_t kMaxPieces = 1 << 12;
constexpr size_t kMaxLetters = 1 << 15;      // of a piece
constexpr size_t kMaxTextLetters = 1 << 18;  // of all

}  // namespace

void append(JinjaText& text, const JinjaText& more) {
  for (const JinjaPiece& piece : more) {
    if (!piece.unknown && piece.text.empty()) continue;
    if (!piece.unknown && !text.empty() && !text.back().unknown) {
      text.back().text += piece.text;
    } else {
      text.push_back(piece);
    }
    if (text.size() > kMaxPieces || text.back().text.size() > kMaxLetters) {
      fail(ErrorKind::kInput, "so long a text is not known here");
    }
  }
  if (letters(text) > kMaxTextLetters) fail(ErrorKind::kInput, "so long a text is not known here");
}

size_t letters(const JinjaText& text) {
  size_t count = 0;
  for (const JinjaPiece& piece : text) count += piece.text.size();
  return count;
}

JinjaText known_text(std::string_view letters) {
  if (letters.empty()) return {};
  return {{std::string(letters)}};
}

JinjaText unknown_text(const std::string& name) { return {{name, true}}; }

bool is_known(const JinjaText& text) { return text.empty() || (text.size() == 1 && !text[0].unknown); }

std::string spell(const JinjaText& text) {
  std::string out;
  for (const JinjaPiece& piece : text) out += piece.unknown ? "{" + piece.text + "}" : piece.text;
  return out;
}

}  // namespace carousel::text
