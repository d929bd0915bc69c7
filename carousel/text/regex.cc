// SPDX-License-Identifier: Apache-2.0
// Compiles patterns with Oniguruma and searches within limits of steps, time and memory.
#include "carousel/text/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/text/ascii_matcher.h"
#include "carousel/text/onig_faults.h"
#include "carousel/text/unicode.h"
#include "carousel/text/unicode_encoding.h"

namespace carousel::text {
namespace {

constexpr size_t kMaxPattern = 32768;
constexpr unsigned long kMatchRetries = 10'000'000;    // backtracking steps per start position: Oniguruma's default
constexpr unsigned long kSearchRetries = 100'000'000;  // backtracking steps per search
constexpr double kSlowBytes = 2e9;                     // bytes that slow steps, which may read all the text, may read
constexpr unsigned int kMatchStack = 5'000'000;        // entries of about 48 bytes, on the heap
constexpr auto kSearchTime = std::chrono::seconds(4);  // of the thread, in a search between two matches
constexpr auto kByteTime = std::chrono::microseconds(2);  // of all searches in a text, for each byte of it, beside that
constexpr size_t kMaxOneSearch = 65536;                   // bytes of text that are searched in one call

// The time that this thread has computed: what is refused should not depend on what else the machine does.
std::chrono::nanoseconds computed() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// The beginning of `pattern`, on one line, for a message.
std::string shown(const std::string& pattern) {
  std::string out = pattern.substr(0, 80);
  out.resize(valid_prefix(out));
  for (char& c : out) c = static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  return out;
}

[[noreturn]] void unsupported(const std::string& where, const std::string& pattern, const char* what) {
  fail(ErrorKind::kInput, "{}: regex \"{}\" uses {}, which is not supported", where, shown(pattern), what);
}

const OnigUChar* bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

bool has_any(const std::string& pattern, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return pattern.find(part) != std::string::npos; });
}

}  // namespace

struct Regex::Compiled {
  std::string pattern;
  std::string where;
  std::unique_ptr<OnigRegexType, decltype(&onig_free)> code{nullptr, onig_free};
  std::optional<AsciiMatcher> short_cut;
  bool slow_steps = false;  // one step may look at all of the text: the limit of steps falls as the text grows
  bool one_search = false;  // has \G, which matches where the search began
  bool segments = false;    // has text segments, for which libonig's own tables are used
};

namespace {

// The memory of one search: match positions and limits.
class Matcher {
 public:
  struct Source {
    OnigRegex code;
    const std::string& where;
    const std::string& pattern;
    bool slow_steps;
    bool one_search;
  };

  Matcher(const Source& source, std::string_view text) : source_(source), text_(text) {
    CAROUSEL_ASSERT(region_ != nullptr && limits_ != nullptr);
    unsigned long retries = kMatchRetries;
    if (source.slow_steps) {
      retries = std::clamp(static_cast<unsigned long>(kSlowBytes / static_cast<double>(text.size() + 1)), 10'000ul,
                           kMatchRetries);
    }
    onig_initialize_match_param(limits_.get());
    onig_set_retry_limit_in_match_of_match_param(limits_.get(), retries);
    onig_set_retry_limit_in_search_of_match_param(limits_.get(), source.slow_steps ? retries : kSearchRetries);
    onig_set_match_stack_limit_size_of_match_param(limits_.get(), kMatchStack);
  }

  /// The first match starting at or after `pos`.
  bool find(size_t pos, size_t* begin, size_t* end) {
    if (++searches_ % 16 == 0 && computed() - began_ > kSearchTime + text_.size() * kByteTime) {
      give_up("takes too long");
    }
    if (!(text_.size() - pos <= kMaxOneSearch || source_.one_search ? search(pos) : step(pos))) return false;
    *begin = static_cast<size_t>(region_->beg[0]);
    *end = static_cast<size_t>(region_->end[0]);
    if (*begin < pos || *end < *begin)
      unsupported(source_.where, source_.pattern, "a match that ends before it begins");
    return true;
  }

 private:
  // One search by Oniguruma: it skips positions that cannot begin a match, but cannot be interrupted.
  bool search(size_t pos) {
    if (text_.size() - pos > kMaxOneSearch) give_up("has \\G, and would take too long");
    const OnigUChar* text = bytes(text_);
    return matched(onig_search_with_param(source_.code, text, text + text_.size(), text + pos, text + text_.size(),
                                          region_.get(), ONIG_OPTION_NONE, limits_.get()));
  }

  // Tries one start position after the other, so that a pattern that scans a long text from each is noticed.
  bool step(size_t pos) {
    const std::chrono::nanoseconds started = computed();
    const OnigUChar* text = bytes(text_);
    for (size_t tried = 0; pos <= text_.size(); ++tried) {
      if (matched(onig_match_with_param(source_.code, text, text + text_.size(), text + pos, region_.get(),
                                        ONIG_OPTION_NONE, limits_.get()))) {
        return true;
      }
      do ++pos;
      while (pos < text_.size() && (static_cast<unsigned char>(text_[pos]) & 0xC0) == 0x80);
      if (tried % 64 == 63 && computed() - started > kSearchTime) give_up("takes too long");
    }
    return false;
  }

  bool matched(int status) const {
    if (status >= 0) return true;
    if (status == ONIG_MISMATCH) return false;
    if (status == ONIGERR_RETRY_LIMIT_IN_MATCH_OVER || status == ONIGERR_RETRY_LIMIT_IN_SEARCH_OVER) {
      give_up("backtracks too much");
    }
    give_up("needs too much memory");
  }
  [[noreturn]] void give_up(const char* why) const {
    fail(ErrorKind::kInput, "{}: regex \"{}\" {} on a text of {} bytes", source_.where, shown(source_.pattern), why,
         text_.size());
  }

  struct FreeRegion {
    void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
  };
  Source source_;
  std::string_view text_;
  std::chrono::nanoseconds began_ = computed();
  size_t searches_ = 0;
  std::unique_ptr<OnigRegion, FreeRegion> region_{onig_region_new()};
  std::unique_ptr<OnigMatchParam, decltype(&onig_free_match_param)> limits_{onig_new_match_param(),
                                                                            onig_free_match_param};
};

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& where) {
  if (pattern.size() > kMaxPattern) {
    fail(ErrorKind::kInput, "{}: regex of {} bytes, expected at most {}", where, pattern.size(), kMaxPattern);
  }
  auto compiled = std::make_shared<Compiled>();
  compiled->pattern = pattern;
  compiled->where = where;
  compiled->slow_steps = has_any(pattern, {"\\k", "\\X", "\\y", "\\Y", "(?~", "(?<", "\\1", "\\2", "\\3", "\\4", "\\5",
                                           "\\6", "\\7", "\\8", "\\9"});
  compiled->one_search = has_any(pattern, {"\\G"});
  compiled->segments = has_any(pattern, {"\\X", "\\y", "\\Y"});
  const char* refused = nullptr;
  const std::string source = without_onig_faults(pattern, &refused);
  // Word segments of some characters changed before Unicode 16, which brought U+0897.
  if (has_any(pattern, {"y{w"}) && first_younger_than_libonig("\u0897") != 0)
    refused = "(?y{w}), text segments by word";
  if (refused != nullptr) unsupported(where, pattern, refused);
  OnigRegex code = nullptr;
  OnigErrorInfo at{};
  const int status = onig_new(&code, bytes(source), bytes(source) + source.size(), ONIG_OPTION_NONE, unicode_encoding(),
                              ONIG_SYNTAX_ONIGURUMA, &at);
  if (status != ONIG_NORMAL) {
    OnigUChar reason[ONIG_MAX_ERROR_MESSAGE_LEN] = {};
    onig_error_code_to_str(reason, status, &at);
    fail(ErrorKind::kInput, "{}: regex \"{}\" does not compile: {}", where, shown(pattern),
         shown(reinterpret_cast<const char*>(reason)));
  }
  compiled->code.reset(code);
  compiled->short_cut = AsciiMatcher::make(pattern);
  compiled_ = std::move(compiled);
}

void Regex::each_match(std::string_view text, const std::function<void(size_t, size_t)>& found) const {
  if (text.data() == nullptr) text = "";
  if (const char32_t code = compiled_->segments ? first_younger_than_libonig(text) : 0; code != 0) {
    fail(ErrorKind::kInput,
         "{}: regex \"{}\" is about text segments, and the text has U+{:04X}, which libonig {} does not "
         "know; expected older characters or a newer libonig",
         compiled_->where, shown(compiled_->pattern), static_cast<uint32_t>(code), onig_version());
  }
  std::optional<Matcher> matcher;
  const auto find = [&](size_t pos, size_t* begin, size_t* end) {
    *begin = pos;
    *end = compiled_->short_cut ? compiled_->short_cut->match(text, pos) : AsciiMatcher::kUnknown;
    if (*end != AsciiMatcher::kUnknown) return true;
    if (!matcher) {
      matcher.emplace(Matcher::Source{compiled_->code.get(), compiled_->where, compiled_->pattern,
                                      compiled_->slow_steps, compiled_->one_search},
                      text);
    }
    return matcher->find(pos, begin, end);
  };
  size_t pos = 0;
  size_t last_end = SIZE_MAX;
  size_t begin = 0;
  size_t end = 0;
  while (pos <= text.size() && find(pos, &begin, &end)) {
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
