// SPDX-License-Identifier: Apache-2.0
// The short cut finds what Oniguruma finds, on patterns as published and on drawn ones.
#include "carousel/text/ascii_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "carousel/text/regex.h"

namespace carousel::text {
namespace {

const std::vector<std::string>& published() {
  static const std::vector<std::string> patterns = {
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\s+)"};
  return patterns;
}

std::string drawn(std::mt19937& random, const std::vector<std::string>& parts, size_t most) {
  std::string out;
  for (size_t n = random() % (most + 1); n > 0; --n) out += parts[random() % parts.size()];
  return out;
}

std::vector<std::pair<size_t, size_t>> matches(const std::string& pattern, const std::string& text) {
  std::vector<std::pair<size_t, size_t>> out;
  Regex(pattern, "test").each_match(text, [&](size_t begin, size_t end) { out.emplace_back(begin, end); });
  return out;
}

TEST(AsciiMatcher, TakesPublishedPatternsAndLeavesTheRest) {
  for (const std::string& pattern : published()) EXPECT_TRUE(AsciiMatcher::make(pattern).has_value()) << pattern;
  for (const char* pattern :
       {"a{2}+",     "a{2}?",   "a{,2}", "a+?",    "a**",   "^a",    "a$",     "\\bx",   "(a)",
        "(?>a)",     "(?<=a)b", "\\R",   "\\X",    "(?i)a", "[[]a]", "(?:a+)", "(?:a)*", "(?i:\\w)",
        "(?i:[^a])", "(?=ab)",  "a{x}",  "(?!a)+", "\\x41", "\\1",   "(?i:ß)", "a|(?:)"}) {
    EXPECT_FALSE(AsciiMatcher::make(pattern).has_value()) << pattern;
  }
}

TEST(AsciiMatcher, StopsAtWhatItDoesNotKnow) {
  const auto matcher = AsciiMatcher::make("\\w+|\\s");
  ASSERT_TRUE(matcher.has_value());
  EXPECT_EQ(matcher->match("ab c", 0), 2u);
  EXPECT_EQ(matcher->match("ab", 0), 2u);
  EXPECT_EQ(matcher->match("abé", 0), AsciiMatcher::kUnknown);
  EXPECT_EQ(matcher->match("é", 0), AsciiMatcher::kUnknown);
  EXPECT_EQ(matcher->match("-ab", 0), AsciiMatcher::kUnknown);
  EXPECT_EQ(matcher->match("ab", 2), AsciiMatcher::kUnknown);
  const auto slow = AsciiMatcher::make("a*a*a*a*b");
  ASSERT_TRUE(slow.has_value());
  EXPECT_EQ(slow->match(std::string(1000, 'a'), 0), AsciiMatcher::kUnknown);
}

// A comment in front is all it takes to be left to Oniguruma.
TEST(AsciiMatcher, AgreesWithOniguruma) {
  std::mt19937 random(1);
  const std::vector<std::string> texts = {"a",    "A", "s",  "S", "t", "re", "'", " ",      "  ", "\n",
                                          "\r\n", "1", "23", ".", "-", "é",  "ſ", "\u212a", "日", "\t"};
  const std::vector<std::string> parts = {
      "\\p{L}+", "\\s+(?!\\S)", " ?",          "[^\\s\\p{L}]", "\\w*",         "\\d{1,2}",
      "a?+",     "s",           "(?i:'s|re)?", "(?:a|as)",     "[\\r\\n]*",    "|",
      "|",       ".",           "(?=a)",       "\\S{2}",       "[a-s&&[^b]]+", "'",
      "é"};
  for (int round = 0; round < 400; ++round) {
    const std::string pattern =
        round < 40 ? published()[static_cast<size_t>(round) % published().size()] : drawn(random, parts, 6);
    for (int i = 0; i < 10; ++i) {
      const std::string text = drawn(random, texts, 12);
      EXPECT_EQ(matches(pattern, text), matches("(?#)" + pattern, text)) << pattern << "\n" << text;
    }
  }
}

}  // namespace
}  // namespace carousel::text
