// SPDX-License-Identifier: Apache-2.0
// UTF-8, character classes, normal forms and the byte alphabet.
#include "carousel/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> chars{};
  std::array<int16_t, 324> bytes{};  // by code; -1: none
};

constexpr ByteAlphabet make_byte_alphabet() {
  ByteAlphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = -1;
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const char32_t code = itself ? static_cast<char32_t>(b) : next++;
    alphabet.chars[static_cast<size_t>(b)] = code;
    alphabet.bytes[code] = static_cast<int16_t>(b);
  }
  return alphabet;
}
constexpr ByteAlphabet kByteAlphabet = make_byte_alphabet();

utf8proc_category_t category(char32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }

// Canonical ordering: each run of marks sorted by combining class, stably. utf8proc's own is quadratic in a run.
void order_marks(std::vector<utf8proc_int32_t>& codes) {
  const auto combining_class = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  size_t i = 0;
  while (i < codes.size()) {
    if (combining_class(codes[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(i), codes.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](utf8proc_int32_t a, utf8proc_int32_t b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

}  // namespace

Decoded decode_utf8(std::string_view text, size_t pos) {
  const auto byte_at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte_at(pos);
  if (lead < 0x80) return {lead, 1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {0, 1, false, false};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code = lead & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if (pos + i == text.size()) return {0, i, false, true};
    const unsigned char next = byte_at(pos + i);
    // The second byte excludes overlong forms, surrogates and codes beyond U+10FFFF.
    const unsigned char low = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (next < low || next > high) return {0, i, false, false};
    code = (code << 6) | (next & 0x3Fu);
  }
  return {code, size, true, false};
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | (code >> 6));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

size_t valid_prefix(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    uint64_t eight;
    if (pos + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + pos, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        pos += sizeof eight;
        continue;
      }
    }
    const Decoded next = decode_utf8(text, pos);
    if (!next.valid) return pos;
    pos += next.size;
  }
  return pos;
}

std::string replace_invalid(std::string_view text) {
  std::string out;
  while (true) {
    const size_t valid = valid_prefix(text);
    out.append(text.substr(0, valid));
    if (valid == text.size()) return out;
    out.append(kReplacement);
    text.remove_prefix(valid + decode_utf8(text, valid).size);
  }
}

bool is_space(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_word(char32_t code) {
  if (code == 0x200C || code == 0x200D) return true;
  // Alphabetic symbols outside the letter categories: circled and squared Latin.
  if ((code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
      (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189)) {
    return true;
  }
  switch (category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool is_numeric(char32_t code) {
  const utf8proc_category_t c = category(code);
  return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t code) {
  if (code < 0x80) {
    return (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) ||
           (code >= 123 && code <= 126);
  }
  const utf8proc_category_t c = category(code);
  return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool is_mark(char32_t code) {
  const utf8proc_category_t c = category(code);
  return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

void append_lower(std::string& out, char32_t code) {
  if (code == 0x130) {  // the one character whose lower case is two
    out.append("i\xCC\x87");
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
}

std::string normalize(std::string_view text, NormalForm form) {
  // Below U+0300 every character is its own NFC, below U+0080 its own anything.
  const char32_t plain = form == NormalForm::kNfc ? 0x300 : 0x80;
  size_t pos = 0;
  bool changes = false;
  while (pos < text.size() && !changes) {
    const Decoded next = decode_utf8(text, pos);
    changes = next.code >= plain;
    pos += next.size;
  }
  if (!changes) return std::string(text);

  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compat = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size() + 1);
  for (pos = 0; pos < text.size();) {
    const Decoded next = decode_utf8(text, pos);
    pos += next.size;
    utf8proc_int32_t parts[32];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next.code), parts, 32, options, &boundary);
    CAROUSEL_ASSERT(count >= 0 && count <= 32);
    codes.insert(codes.end(), parts, parts + count);
  }
  order_marks(codes);
  auto size = static_cast<utf8proc_ssize_t>(codes.size());
  if (compose) size = utf8proc_normalize_utf32(codes.data(), size, options);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < size; ++i) append_utf8(out, static_cast<char32_t>(codes[static_cast<size_t>(i)]));
  return out;
}

char32_t byte_to_char(uint8_t byte) { return kByteAlphabet.chars[byte]; }

int char_to_byte(char32_t code) { return code < kByteAlphabet.bytes.size() ? kByteAlphabet.bytes[code] : -1; }

std::string to_byte_alphabet(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) append_utf8(out, byte_to_char(static_cast<uint8_t>(c)));
  return out;
}

void append_from_byte_alphabet(std::string& out, std::string_view token) {
  const size_t begin = out.size();
  for (size_t pos = 0; pos < token.size();) {
    const Decoded next = decode_utf8(token, pos);
    const int byte = char_to_byte(next.code);
    if (byte < 0) {
      out.resize(begin);
      out.append(token);
      return;
    }
    out.push_back(static_cast<char>(byte));
    pos += next.size;
  }
}

}  // namespace carousel::text
