// SPDX-License-Identifier: Apache-2.0
// Parses the subset of patterns that the matcher knows, and matches it by backtracking.
#include "carousel/text/ascii_matcher.h"

#include <oniguruma.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "carousel/text/unicode.h"
#include "carousel/text/unicode_encoding.h"

namespace carousel::text {
namespace {

constexpr size_t kMaxAlternatives = 64;  // bits of worth_trying_
constexpr size_t kMaxItems = 32;         // recursion of one attempt
constexpr size_t kMaxSteps = 1000;       // backtracking of one attempt
constexpr size_t kMaxRepeat = 1000;      // in {n,m}

}  // namespace

// Recursive descent over the subset. A member that returns false has met something that is not in it.
class AsciiMatcher::Parser {
 public:
  explicit Parser(std::string_view pattern) : pattern_(pattern) {}

  bool alternatives(std::vector<Items>* out) {
    do {
      Items items;
      while (at_ < pattern_.size() && pattern_[at_] != '|') {
        Item next;
        if (items.size() == kMaxItems || !item(&next)) return false;
        items.push_back(std::move(next));
      }
      out->push_back(std::move(items));
    } while (skip("|"));
    return at_ == pattern_.size() && out->size() <= kMaxAlternatives;
  }

 private:
  bool skip(std::string_view text) {
    if (pattern_.substr(at_, text.size()) != text) return false;
    at_ += text.size();
    return true;
  }
  bool next_is_one_of(std::string_view characters) const {
    return at_ < pattern_.size() && characters.find(pattern_[at_]) != std::string_view::npos;
  }

  bool item(Item* out) {
    if (skip("(?!") || skip("(?=")) {
      out->kind = pattern_[at_ - 1] == '!' ? Kind::kNotAhead : Kind::kAhead;
      return atom(&out->set, "") && skip(")") && !next_is_one_of("?*+{");
    }
    if (skip("(?i:")) return group("(?i:", out);
    if (skip("(?:")) return group("", out);
    return atom(&out->set, "") && repeat(out);
  }

  bool group(std::string_view option, Item* out) {
    out->kind = Kind::kGroup;
    do {
      std::vector<Set> row;
      while (at_ < pattern_.size() && pattern_[at_] != '|' && pattern_[at_] != ')') {
        row.emplace_back();
        if (row.size() > kMaxItems || !atom(&row.back(), option)) return false;
      }
      if (row.empty()) return false;
      out->group.push_back(std::move(row));
    } while (skip("|"));
    if (!skip(")")) return false;
    if (skip("?")) out->least = 0;
    return !next_is_one_of("?*+{");
  }

  bool repeat(Item* out) {
    if (skip("?")) {
      out->least = 0;
    } else if (skip("*")) {
      out->least = 0;
      out->most = SIZE_MAX;
    } else if (skip("+")) {
      out->most = SIZE_MAX;
    } else if (skip("{")) {  // an interval followed by + or ? is something else
      if (!number(&out->least)) return false;
      out->most = out->least;
      if (skip(",")) {
        out->most = SIZE_MAX;
        if (!next_is_one_of("}") && !number(&out->most)) return false;
      }
      return skip("}") && out->least <= out->most && !next_is_one_of("?*+{");
    } else {
      return true;
    }
    out->possessive = skip("+");
    return !next_is_one_of("?*+{");
  }

  bool number(size_t* out) {
    *out = 0;
    const size_t begin = at_;
    while (next_is_one_of("0123456789") && *out <= kMaxRepeat) {
      *out = *out * 10 + static_cast<size_t>(pattern_[at_++] - '0');
    }
    return at_ > begin && *out <= kMaxRepeat;
  }

  // One character, class or property. Where letter case does not count, only characters and classes that are lists of
  // them: a class of others may match several characters there.
  bool atom(Set* set, std::string_view option) {
    const size_t begin = at_;
    if (at_ == pattern_.size() || next_is_one_of("^$*+?{()|")) return false;
    if (skip("[")) {
      if (!(option.empty() ? rest_of_class() : rest_of_list())) return false;
    } else if (skip("\\")) {
      if (!option.empty() || !rest_of_escape()) return false;
    } else {
      if (pattern_[at_] == '.' && !option.empty()) return false;
      const Decoded character = decode_utf8(pattern_, at_);
      if (!option.empty() && character.code >= 0x80) return false;
      at_ += character.size;
    }
    const std::string end = option.empty() ? "" : ")";
    return evaluate(std::string(option).append(pattern_.substr(begin, at_ - begin)).append(end), set);
  }

  bool rest_of_class() {
    skip("^");
    skip("]");  // first in its class: literal
    size_t depth = 1;
    while (depth > 0 && at_ < pattern_.size()) {
      const char c = pattern_[at_];
      at_ += c == '\\' ? 2 : 1;
      if (c == ']') --depth;
      if (c != '[') continue;
      ++depth;
      if (next_is_one_of("^]")) return false;  // rare enough to be left to Oniguruma
    }
    return depth == 0;
  }

  bool rest_of_list() {
    while (at_ < pattern_.size() && ((pattern_[at_] | 0x20) >= 'a' && (pattern_[at_] | 0x20) <= 'z')) ++at_;
    return pattern_[at_ - 1] != '[' && skip("]");
  }

  bool rest_of_escape() {
    if (at_ == pattern_.size()) return false;
    const char c = pattern_[at_++];
    if (c == 'p' || c == 'P') {
      const size_t end = pattern_.find('}', at_);
      if (!next_is_one_of("{") || end == std::string_view::npos) return false;
      at_ = end + 1;
      return true;
    }
    const bool letter = ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c >= '0' && c <= '9');
    return static_cast<unsigned char>(c) < 0x80 &&
           (!letter || std::string_view("sSdDwWhHnrt").find(c) != std::string::npos);
  }

  // Oniguruma says which characters of ASCII `source` matches.
  static bool evaluate(const std::string& source, Set* set) {
    const auto* bytes = reinterpret_cast<const OnigUChar*>(source.data());
    OnigRegex compiled = nullptr;
    OnigErrorInfo error{};
    if (onig_new(&compiled, bytes, bytes + source.size(), ONIG_OPTION_NONE, unicode_encoding(), ONIG_SYNTAX_ONIGURUMA,
                 &error) != ONIG_NORMAL) {
      return false;
    }
    const std::unique_ptr<OnigRegexType, decltype(&onig_free)> owner(compiled, onig_free);
    for (unsigned c = 0; c < 128; ++c) {
      const auto text = static_cast<OnigUChar>(c);
      if (onig_match(compiled, &text, &text + 1, &text, nullptr, ONIG_OPTION_NONE) == 1) {
        set->bits[c >> 6] |= uint64_t{1} << (c & 63);
      }
    }
    return true;
  }

  std::string_view pattern_;
  size_t at_ = 0;
};

std::optional<AsciiMatcher> AsciiMatcher::make(std::string_view pattern) {
  AsciiMatcher out;
  if (!Parser(pattern).alternatives(&out.alternatives_)) return std::nullopt;
  out.worth_trying_.assign(128, 0);
  for (unsigned char c = 0; c < 128; ++c) {
    for (size_t a = 0; a < out.alternatives_.size(); ++a) {
      const Items& items = out.alternatives_[a];
      const bool wrong_first =
          !items.empty() && items[0].kind == Kind::kSet && items[0].least > 0 && !items[0].set.has(c);
      if (!wrong_first) out.worth_trying_[c] |= uint64_t{1} << a;
    }
  }
  return out;
}

// One alternative tried at one position.
struct AsciiMatcher::Attempt {
  std::string_view text;
  size_t end = 0;  // of the match
  size_t steps = 0;
  bool unknown = false;

  // Whether the character at `pos` is in `set`; the end of the text is in none.
  bool is_in(const Set& set, size_t pos) {
    if (pos >= text.size()) return false;
    const auto c = static_cast<unsigned char>(text[pos]);
    if (c >= 0x80) unknown = true;
    return c < 0x80 && set.has(c);
  }

  bool run(const Items& items, size_t i, size_t pos) {
    for (; i < items.size(); ++i) {
      const Item& item = items[i];
      if (item.kind == Kind::kGroup) {
        if (choose(items, i, pos)) return true;
        if (unknown || item.least > 0) return false;
        continue;
      }
      if (item.kind != Kind::kSet) {
        if (is_in(item.set, pos) != (item.kind == Kind::kAhead) || unknown) return false;
        continue;
      }
      size_t count = 0;
      while (count < item.most && is_in(item.set, pos + count)) ++count;
      if (unknown || count < item.least) return false;
      if (!item.possessive && i + 1 < items.size()) {
        for (; count > item.least; --count) {
          if (run(items, i + 1, pos + count)) return true;
          if (unknown || ++steps > kMaxSteps) return unknown = true, false;
        }
      }
      pos += count;
    }
    end = pos;
    return true;
  }

  bool choose(const Items& items, size_t i, size_t pos) {
    for (const std::vector<Set>& row : items[i].group) {
      size_t size = 0;
      while (size < row.size() && is_in(row[size], pos + size)) ++size;
      if (unknown) return false;
      if (size == row.size() && run(items, i + 1, pos + size)) return true;
      if (unknown) return false;
    }
    return false;
  }
};

size_t AsciiMatcher::match(std::string_view text, size_t pos) const {
  if (pos >= text.size() || static_cast<unsigned char>(text[pos]) >= 0x80) return kUnknown;
  Attempt attempt{text};
  const uint64_t worth = worth_trying_[static_cast<unsigned char>(text[pos])];
  for (size_t a = 0; a < alternatives_.size(); ++a) {
    if ((worth >> a & 1) == 0) continue;
    if (attempt.run(alternatives_[a], 0, pos)) return attempt.end;
    if (attempt.unknown) return kUnknown;
  }
  return kUnknown;
}

}  // namespace carousel::text
