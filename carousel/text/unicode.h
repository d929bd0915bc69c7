// SPDX-License-Identifier: Apache-2.0
// UTF-8, the character classes tokenizers split on, Unicode normal forms (utf8proc), and the printable alphabet that
// byte-level BPE (Radford et al. 2019) writes bytes in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace carousel::text {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";    // U+FFFD
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // U+FEFF, which some editors begin a file with

struct Decoded {
  char32_t code = 0;
  size_t size = 0;  // bytes; for an invalid sequence, the bytes that one U+FFFD replaces
  bool valid = false;
  bool partial = false;  // invalid only because the text ends inside the character
};

/// The character at `pos` < text.size(). Surrogates, overlong forms and codes beyond U+10FFFF are invalid.
Decoded decode_utf8(std::string_view text, size_t pos);
void append_utf8(std::string& out, char32_t code);
inline std::string without_byte_order_mark(const std::string& text) {
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}
/// Bytes of the longest valid prefix.
size_t valid_prefix(std::string_view text);
/// `text` with each invalid sequence replaced by U+FFFD, as browsers and the reference library do.
std::string replace_invalid(std::string_view text);

bool is_space(char32_t code);        // White_Space
bool is_word(char32_t code);         // letters, marks, decimal digits, connectors, joiners
bool is_numeric(char32_t code);      // N*
bool is_punctuation(char32_t code);  // P*, and all of ASCII's
bool is_mark(char32_t code);         // M*
void append_lower(std::string& out, char32_t code);

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };
/// `text` must be valid UTF-8. Linear in the text, whatever combining marks pile up.
std::string normalize(std::string_view text, NormalForm form);

/// The byte alphabet: 33-126, 161-172 and 174-255 stand for themselves, the other 68 for U+0100 + n in order.
char32_t byte_to_char(uint8_t byte);
int char_to_byte(char32_t code);  // -1: no byte
std::string to_byte_alphabet(std::string_view bytes);
/// Appends the bytes that `token` spells; a token with a character outside the alphabet spells its own bytes.
void append_from_byte_alphabet(std::string& out, std::string_view token);

}  // namespace carousel::text
