// SPDX-License-Identifier: Apache-2.0
// Reads JSON left to right without building a tree.
#include "carousel/text/json_scan.h"

#include <charconv>

#include "carousel/core/error.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

void JsonScan::wrong(const char* expected) const {
  if (pos_ >= text_.size()) {
    fail(ErrorKind::kInput, "{}: not valid JSON: ends at byte {}, expected {}", where_, text_.size(), expected);
  }
  const auto c = static_cast<unsigned char>(text_[pos_]);
  const std::string got = c > 32 && c < 127 ? fmt::format("'{}'", text_[pos_]) : fmt::format("byte {:#04x}", c);
  fail(ErrorKind::kInput, "{}: got {} at byte {}, expected {}", where_, got, pos_, expected);
}

char JsonScan::peek() {
  while (pos_ < text_.size()) {
    const char c = text_[pos_];
    if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return c;
    ++pos_;
  }
  return '\0';
}

bool JsonScan::take(char c) {
  if (peek() != c || pos_ >= text_.size()) return false;
  ++pos_;
  return true;
}

void JsonScan::expect(char c) {
  const char name[] = {'\'', c, '\'', '\0'};
  if (!take(c)) wrong(name);
}

std::string_view JsonScan::string() {
  if (!take('"')) wrong("a string");
  const size_t begin = pos_;
  unescaped_.clear();
  size_t copied = begin;
  while (pos_ < text_.size()) {
    const char c = text_[pos_];
    if (c == '"') {
      const std::string_view rest = text_.substr(copied, pos_ - copied);
      ++pos_;
      if (copied == begin) return rest;
      return unescaped_.append(rest);
    }
    if (static_cast<unsigned char>(c) < 0x20) wrong("no control character in a string");
    if (c != '\\') {
      ++pos_;
      continue;
    }
    unescaped_.append(text_.substr(copied, pos_ - copied));
    ++pos_;
    escape();
    copied = pos_;
  }
  wrong("the end of the string");
}

void JsonScan::escape() {
  if (pos_ >= text_.size()) wrong("an escape");
  constexpr std::string_view kLetters = "\"\\/bfnrt";
  constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
  if (const size_t i = kLetters.find(text_[pos_]); i != std::string_view::npos) {
    unescaped_.push_back(kMeanings[i]);
    ++pos_;
    return;
  }
  if (text_[pos_] != 'u') wrong("an escape of JSON");
  ++pos_;
  char32_t code = hex4();
  if (code >= 0xDC00 && code < 0xE000) wrong("a high surrogate before a low one");
  if (code >= 0xD800 && code < 0xDC00) {
    if (text_.substr(pos_, 2) != "\\u") wrong("a low surrogate");
    pos_ += 2;
    const char32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) wrong("a low surrogate");
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }
  append_utf8(unescaped_, code);
}

uint32_t JsonScan::hex4() {
  const std::string_view digits = text_.substr(pos_, 4);
  uint32_t code = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  if (digits.size() != 4 || error != std::errc() || end != digits.data() + 4) wrong("four hexadecimal digits");
  pos_ += 4;
  return code;
}

int64_t JsonScan::integer() {
  peek();
  const std::string_view rest = text_.substr(pos_);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  const auto size = static_cast<size_t>(end - rest.data());
  const bool zeros = size > 1 && (rest[0] == '0' || rest.substr(0, 2) == "-0");
  const bool ended = size < rest.size() && std::string_view(" \t\r\n,]}").find(rest[size]) != std::string_view::npos;
  if (error != std::errc() || zeros || !ended) wrong("an integer");
  pos_ += size;
  return value;
}

void JsonScan::skip_string() {
  ++pos_;
  while (pos_ < text_.size() && text_[pos_] != '"') pos_ += text_[pos_] == '\\' ? 2 : 1;
  if (pos_ >= text_.size()) wrong("the end of the string");
  ++pos_;
}

std::string_view JsonScan::skip() {
  if (peek() == '\0') wrong("a value");
  const size_t begin = pos_;
  int depth = 0;
  while (pos_ < text_.size()) {
    const char c = text_[pos_];
    if (c == '"') {
      skip_string();
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) fail(ErrorKind::kInput, "{}: JSON nests deeper than {} levels", where_, kMaxDepth);
      ++pos_;
      continue;
    } else if (c == ']' || c == '}') {
      if (depth == 0) break;
      --depth;
      ++pos_;
    } else if (depth == 0 && c == ',') {
      break;
    } else {
      ++pos_;
      continue;
    }
    if (depth == 0) break;
  }
  if (depth > 0 || pos_ == begin) wrong("a value");
  return text_.substr(begin, pos_ - begin);
}

void JsonScan::finish() {
  if (peek() != '\0' || pos_ < text_.size()) wrong("the end");
}

}  // namespace carousel::text
