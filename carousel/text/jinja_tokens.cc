// SPDX-License-Identifier: Apache-2.0
// Cuts a template into text and tokens.
#include "carousel/text/jinja_tokens.h"

#include <algorithm>
#include <cctype>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

using Kind = JinjaToken::Kind;

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Jinja reads every kind of newline as "\n" and leaves out one at the very end.
std::string with_plain_newlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Tokenizing {
 public:
  explicit Tokenizing(std::string_view source) : source_(with_plain_newlines(source)) {}

  std::vector<JinjaToken> run() {
    while (at_ < source_.size()) {
      const size_t begin = next_delimiter();
      text_before(begin);
      if (begin == source_.size()) break;
      const char kind = source_[begin + 1];
      advance(begin + 2);
      if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) advance(at_ + 1);
      if (kind == '#') {
        comment();
      } else {
        inside(kind == '%');
      }
    }
    add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  // The first {%, {{ or {# from at_ on.
  size_t next_delimiter() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' && (source_[i + 1] == '%' || source_[i + 1] == '{' || source_[i + 1] == '#')) return i;
    }
    return source_.size();
  }

  // The text up to a delimiter, less the white space its sign takes: "-" all of it; without a sign a block or comment
  // takes what stands before it on its line, where that is white space alone.
  void text_before(size_t begin) {
    std::string text = source_.substr(at_, begin - at_);
    const std::string opening = source_.substr(begin, 3);
    const char sign = opening.size() == 3 ? opening[2] : ' ';
    if (!opening.empty() && sign == '-') {
      while (!text.empty() && is_space(text.back())) text.pop_back();
    } else if (!opening.empty() && sign != '+' && opening[1] != '{') {
      const size_t newline = text.rfind('\n');
      const size_t line_begin = newline == std::string::npos ? 0 : newline + 1;
      const bool blank = std::all_of(text.begin() + static_cast<std::ptrdiff_t>(line_begin), text.end(), is_space);
      if (blank && (line_begin > 0 || line_starts_)) text.resize(line_begin);
    }
    if (!text.empty()) add(Kind::kText, text);
    advance(begin);
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) wrong("a comment without its end");
    const char sign = source_[end - 1];
    advance(end + 2);
    after_end(sign, true);
  }

  // What a closing delimiter takes of the text behind it.
  void after_end(char sign, bool takes_newline) {
    size_t end = at_;
    if (sign == '-') {
      while (end < source_.size() && is_space(source_[end])) ++end;
    } else if (sign != '+' && takes_newline && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    advance(end);
    line_starts_ = source_[at_ - 1] == '\n';
  }

  void inside(bool block) {
    add(block ? Kind::kBlockBegin : Kind::kPrintBegin, "");
    const std::string closing = block ? "%}" : "}}";
    std::string open;  // brackets
    for (;;) {
      while (at_ < source_.size() && is_space(source_[at_])) advance(at_ + 1);
      if (at_ == source_.size()) wrong("a tag without its end");
      const char c = source_[at_];
      const bool signed_end =
          (c == '-' || (c == '+' && block)) && source_.compare(at_ + 1, closing.size(), closing) == 0;
      if (open.empty() && (signed_end || source_.compare(at_, closing.size(), closing) == 0)) {
        add(block ? Kind::kBlockEnd : Kind::kPrintEnd, "");
        advance(at_ + closing.size() + (signed_end ? 1 : 0));
        return after_end(signed_end ? c : ' ', block);
      }
      one(open);
    }
  }

  // One token inside a tag.
  void one(std::string& open) {
    const char c = source_[at_];
    if (c == '"' || c == '\'') return quoted(c);
    if (is_digit(c) || is_word(c)) {
      size_t end = at_;
      while (end < source_.size() && is_word(source_[end])) ++end;
      const std::string word = source_.substr(at_, end - at_);
      const bool fraction =
          is_digit(c) && end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1]);
      if (fraction || (is_digit(c) && (word.size() > 9 || !std::all_of(word.begin(), word.end(), is_digit)))) {
        wrong("the number " + word);
      }
      add(is_digit(c) ? Kind::kInteger : Kind::kName, word);
      return advance(end);
    }
    for (const char* two : {"==", "!=", "<=", ">=", "**", "//"}) {
      if (source_.compare(at_, 2, two) == 0) {
        add(Kind::kOperator, two);
        return advance(at_ + 2);
      }
    }
    constexpr std::string_view kOne = "+-*/%~<>=()[]{},.:|";
    if (kOne.find(c) == std::string_view::npos) wrong(std::string("the character ") + c);
    if (c == '(' || c == '[' || c == '{') open += c;
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) wrong(std::string("the bracket ") + c);
      open.pop_back();
    }
    add(Kind::kOperator, std::string(1, c));
    advance(at_ + 1);
  }

  void quoted(char quote) {
    std::string text;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\') {
        text += source_[i];
        continue;
      }
      if (++i == source_.size()) break;
      constexpr std::string_view kNames = "ntr\\'\"";
      constexpr std::string_view kMeant = "\n\t\r\\'\"";
      const size_t known = kNames.find(source_[i]);
      if (known == std::string_view::npos) wrong(std::string("the escape \\") + source_[i]);
      text += kMeant[known];
    }
    if (i >= source_.size()) wrong("a string without its end");
    add(Kind::kString, text);
    advance(i + 1);
  }

  void add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void advance(size_t to) {
    line_ += std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                        source_.begin() + static_cast<std::ptrdiff_t>(to), '\n');
    at_ = to;
    line_starts_ = false;
  }
  [[noreturn]] void wrong(const std::string& what) const {
    fail(ErrorKind::kInput, "line {}: {} is not known here", line_, what);
  }

  std::string source_;
  std::vector<JinjaToken> tokens_;
  size_t at_ = 0;
  int64_t line_ = 1;
  bool line_starts_ = true;  // at_ is where a line of the template begins
};

}  // namespace

std::vector<JinjaToken> jinja_tokens(std::string_view source) { return Tokenizing(source).run(); }

}  // namespace carousel::text
