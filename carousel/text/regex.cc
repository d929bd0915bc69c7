// SPDX-License-Identifier: Apache-2.0
#include "carousel/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdint>

#include "carousel/core/error.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

constexpr size_t kMaxPattern = 32768;
constexpr uint32_t kMatchLimit = 50'000'000;  // backtracking steps per start position
constexpr uint32_t kDepthLimit = 1'000'000;
constexpr uint32_t kHeapLimitKib = 256 * 1024;         // interpreter's backtracking memory, where there is no JIT
constexpr size_t kJitStackBytes = size_t{16} << 20;    // reserved when the 32 KiB default does not do
constexpr auto kSearchTime = std::chrono::seconds(8);  // fruitless search between two matches

[[noreturn]] void unsupported(const std::string& where, const std::string& pattern, const char* what) {
  fail(ErrorKind::kInput, "{}: regex \"{}\" uses {}, which is not supported", where, pattern.substr(0, 80), what);
}

// White_Space, \w and \h as Oniguruma has them; PCRE2's own differ (U+180E, marks, horizontal space).
constexpr std::string_view kSpace = "\\p{Z}\\t-\\r\\x{85}";
constexpr std::string_view kWord = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";
constexpr std::string_view kHex = "0-9A-Fa-f";

std::string_view class_of(char letter) {
  switch (letter) {
    case 's':
    case 'S':
      return kSpace;
    case 'w':
    case 'W':
      return kWord;
    case 'h':
    case 'H':
      return kHex;
    default:
      return {};
  }
}

// \p{Han} means the script in Oniguruma; PCRE2 10.40 on reads it as script extensions.
size_t translate_property(const std::string& pattern, size_t i, std::string& out) {
  const size_t close = pattern.find('}', i);
  if (pattern[i + 2] != '{' || close == std::string::npos) {
    out.append(pattern, i, 2);
    return i + 2;
  }
  std::string name = pattern.substr(i + 3, close - i - 3);
  const bool negated = !name.empty() && name[0] == '^';
  if (negated) name.erase(0, 1);
  const bool letters = std::all_of(name.begin(), name.end(), [](unsigned char c) { return c == '_' || isalpha(c); });
  if (letters && name.size() > 2 && name != "Any") name.insert(0, "sc:");
  out.append(pattern, i, 2).append(negated ? "{^" : "{").append(name).append("}");
  return close + 1;
}

std::string translate(const std::string& pattern, const std::string& where) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size();) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      const std::string_view chars = class_of(next);
      const bool negated = next >= 'A' && next <= 'Z';
      if (next == 'p' || next == 'P') {
        i = translate_property(pattern, i, out);
        continue;
      }
      if (!chars.empty() && in_class && negated) unsupported(where, pattern, "\\S, \\W or \\H inside a class");
      if (!chars.empty()) {
        out.append(in_class ? "" : negated ? "[^" : "[").append(chars).append(in_class ? "" : "]");
      } else {
        out.append(pattern, i, 2);
      }
      i += 2;
      continue;
    }
    if (in_class) {
      if (c == '[' && next != ':') unsupported(where, pattern, "a class within a class");
      if (c == '&' && next == '&') unsupported(where, pattern, "an intersection of classes");
      if (c == '[') {  // [:alpha:]
        const size_t close = pattern.find(":]", i + 2);
        if (close == std::string::npos) unsupported(where, pattern, "an unclosed [: inside a class");
        out.append(pattern, i, close + 2 - i);
        i = close + 2;
        continue;
      }
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
      out.push_back(c);
      ++i;
      if (i < pattern.size() && pattern[i] == '^') out.push_back(pattern[i++]);
      if (i < pattern.size() && pattern[i] == ']') out.push_back(pattern[i++]);  // first in its class: literal
      continue;
    }
    out.push_back(c);
    ++i;
  }
  return out;
}

}  // namespace

struct Regex::Compiled {
  std::string pattern;
  std::string where;
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};
};

namespace {

// The memory of one search: match positions, limits, and a larger JIT stack once one is needed.
class Matcher {
 public:
  Matcher(const pcre2_code* code, std::string_view text, const std::string& where, const std::string& pattern)
      : code_(code), text_(text), where_(where), pattern_(pattern) {
    CAROUSEL_ASSERT(match_ != nullptr && context_ != nullptr);
    pcre2_set_match_limit(context_.get(), kMatchLimit);
    pcre2_set_depth_limit(context_.get(), kDepthLimit);
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
  }

  /// The first match starting at or after `pos`.
  bool find(size_t pos, size_t* begin, size_t* end) {
    // Start positions are tried in windows that double, so that a pattern that scans the text from each is noticed.
    const auto started = std::chrono::steady_clock::now();
    size_t window = std::clamp((size_t{1} << 20) / (text_.size() - pos + 1), size_t{1}, size_t{64});
    while (true) {
      const size_t last = text_.size() - pos <= window ? text_.size() : character_start(pos + window);
      if (attempt(pos, last)) {
        const PCRE2_SIZE* positions = pcre2_get_ovector_pointer(match_.get());
        *begin = positions[0];
        *end = positions[1];
        if (*begin < pos || *end < *begin) unsupported(where_, pattern_, "a match that ends before it begins");
        return true;
      }
      if (last == text_.size()) return false;
      pos = last;  // tried twice, which is harmless
      const auto spent = std::chrono::steady_clock::now() - started;
      if (spent > kSearchTime) give_up("takes too long");
      if (spent < kSearchTime / 64) window *= 2;
    }
  }

 private:
  bool attempt(size_t pos, size_t last) {
    pcre2_set_offset_limit(context_.get(), last);
    int status = run(pos);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT && !stack_) {
      stack_.reset(pcre2_jit_stack_create(32768, kJitStackBytes, nullptr));
      pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      status = run(pos);
    }
    if (status == PCRE2_ERROR_NOMATCH) return false;
    if (status < 0) give_up(status == PCRE2_ERROR_MATCHLIMIT ? "backtracks too much" : "needs too much memory");
    return true;
  }
  int run(size_t pos) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), pos, PCRE2_NO_UTF_CHECK,
                       match_.get(), context_.get());
  }
  size_t character_start(size_t pos) const {
    while (pos < text_.size() && (static_cast<unsigned char>(text_[pos]) & 0xC0) == 0x80) ++pos;
    return pos;
  }
  [[noreturn]] void give_up(const char* why) const {
    fail(ErrorKind::kInput, "{}: regex \"{}\" {} on a text of {} bytes", where_, pattern_.substr(0, 80), why,
         text_.size());
  }

  const pcre2_code* code_;
  std::string_view text_;
  const std::string& where_;
  const std::string& pattern_;
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match_{pcre2_match_data_create(1, nullptr),
                                                                             pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context_{
      pcre2_match_context_create(nullptr), pcre2_match_context_free};
  std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack_{nullptr, pcre2_jit_stack_free};
};

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& where) {
  if (pattern.size() > kMaxPattern) {
    fail(ErrorKind::kInput, "{}: regex of {} bytes, expected at most {}", where, pattern.size(), kMaxPattern);
  }
  const std::string translated = translate(pattern, where);
  // Ruby's ^ and $ match at every line.
  const uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT | PCRE2_NO_UTF_CHECK;
  int error = 0;
  PCRE2_SIZE position = 0;
  auto compiled = std::make_shared<Compiled>();
  compiled->pattern = pattern;
  compiled->where = where;
  compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options,
                                     &error, &position, nullptr));
  if (!compiled->code) {
    unsigned char reason[160];
    pcre2_get_error_message(error, reason, sizeof reason);
    fail(ErrorKind::kInput, "{}: regex \"{}\" does not compile: {} (at byte {} of \"{}\")", where,
         pattern.substr(0, 80), reinterpret_cast<const char*>(reason), position, translated.substr(0, 80));
  }
  uint32_t backreferences = 0;
  pcre2_pattern_info(compiled->code.get(), PCRE2_INFO_BACKREFMAX, &backreferences);
  // The one construct whose single step costs as much as the text is long, unseen by the match limit.
  if (backreferences > 0) unsupported(where, pattern, "a back reference");
  // Without JIT (other machines, exotic patterns) pcre2_match interprets, under the same limits.
  pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
  compiled_ = std::move(compiled);
}

void Regex::each_match(std::string_view text, const std::function<void(size_t, size_t)>& found) const {
  if (text.data() == nullptr) text = "";
  Matcher matcher(compiled_->code.get(), text, compiled_->where, compiled_->pattern);
  size_t pos = 0;
  size_t last_end = SIZE_MAX;
  size_t begin = 0;
  size_t end = 0;
  while (pos <= text.size() && matcher.find(pos, &begin, &end)) {
    if (begin == end && end == last_end) {
      if (pos >= text.size()) return;
      pos += decode_utf8(text, pos).size;
      continue;
    }
    found(begin, end);
    pos = end;
    last_end = end;
  }
}

}  // namespace carousel::text
