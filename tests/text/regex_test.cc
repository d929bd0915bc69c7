// SPDX-License-Identifier: Apache-2.0
// Patterns, classes and Metaspace's mark against what the reference library gave (tools/make_regex_fixtures.py wrote
// tests/fixtures/tokenizers/regexes.json), and what is refused.
#include "carousel/text/regex.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/pattern.h"
#include "carousel/text/tokenizer.h"
#include "carousel/text/unicode.h"
#include "carousel/text/unicode_encoding.h"

namespace carousel::text {
namespace {

const Json& fixture() {
  static const Json json = read_json_file(std::string(CAROUSEL_SOURCE_DIR) + "/tests/fixtures/tokenizers/regexes.json");
  return json;
}

std::string refusal(const std::string& pattern, const std::string& text = "") {
  try {
    Regex(pattern, "t.json: pre_tokenizer").each_match(text, [](size_t, size_t) {});
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    EXPECT_EQ(std::string(error.what()).rfind("t.json: pre_tokenizer: regex ", 0), 0u) << error.what();
    return error.what();
  }
  return "";
}

std::vector<std::string> matched(const Regex& regex, const std::string& text) {
  std::vector<std::string> out;
  regex.each_match(text, [&](size_t begin, size_t end) {
    if (end > begin) out.push_back(text.substr(begin, end - begin));
  });
  return out;
}

TEST(Regex, MatchesWhatTheReferenceDoes) {
  const auto texts = fixture()["texts"].get<std::vector<std::string>>();
  ASSERT_GE(fixture()["patterns"].size(), 250u);
  for (const Json& one : fixture()["patterns"]) {
    const std::string source = one["pattern"];
    SCOPED_TRACE(source);
    if (one.contains("refused")) {
      EXPECT_NE(refusal(source).find("does not compile"), std::string::npos) << refusal(source);
      continue;
    }
    const Regex regex(source, "test");
    const Pattern pattern = Pattern::regex(source, "test");
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(matched(regex, texts[i]), one["matched"][i].get<std::vector<std::string>>()) << texts[i];
      EXPECT_EQ(pattern.replace(texts[i], "⟦⟧", 1 << 20), one["replaced"][i].get<std::string>()) << texts[i];
    }
  }
}

// Every code point of the planes that change, as one text: the runs that a class matches, hashed (FNV-1a).
TEST(Regex, ClassesHoldTheSameCodePoints) {
  std::string text;
  std::vector<char32_t> code_at;  // by byte
  for (char32_t code = 0; code < 0xE1000; code = code == 0x33FFF ? 0xE0000 : code + 1) {
    if (code >= 0xD800 && code < 0xE000) continue;
    append_utf8(text, code);
    code_at.resize(text.size(), code);
  }
  code_at.push_back(0x110000);
  for (const Json& one : fixture()["classes"]) {
    const std::string pattern = one["pattern"];
    uint64_t hash = 0xCBF29CE484222325;
    size_t ranges = 0;
    const auto add = [&hash](char32_t code) { hash = (hash ^ code) * 0x100000001B3; };
    Regex("(?:" + pattern + ")+", "test").each_match(text, [&](size_t begin, size_t end) {
      add(code_at[begin]);
      add(code_at[end]);
      ++ranges;
    });
    char shown[17];
    std::snprintf(shown, sizeof shown, "%016llx", static_cast<unsigned long long>(hash));
    EXPECT_EQ(ranges, one["ranges"].get<size_t>()) << pattern;
    EXPECT_EQ(shown, one["hash"].get<std::string>()) << pattern;
  }
}

TEST(Regex, NamesThePatternAsItsFileSpellsIt) {
  EXPECT_NE(refusal("a\\R\\p{Nope}").find("regex \"a\\R\\p{Nope}\" does not compile: invalid character property"),
            std::string::npos)
      << refusal("a\\R\\p{Nope}");
  EXPECT_NE(refusal("(?I)ss").find("regex \"(?I)ss\" uses (?I) or (?L)"), std::string::npos);
  EXPECT_NE(refusal("a(?{f})").find("a callout"), std::string::npos);
  EXPECT_EQ(refusal("(?x)a\nb[").find('\n'), std::string::npos);
  EXPECT_NE(refusal(std::string(40000, 'a') + "b").find("expected at most 32768"), std::string::npos);
}

// libonig's text segments are of its own age: where they may be wrong, they are refused.
TEST(Regex, TextSegmentsAreRightOrRefused) {
  const std::string young = "a\u0897";  // a mark of Unicode 16
  if (first_younger_than_libonig(young) == 0) {
    EXPECT_EQ(matched(Regex("\\X", "test"), young), std::vector<std::string>{young});
    return;
  }
  EXPECT_NE(refusal("\\X", young).find("regex \"\\X\" is about text segments, and the text has U+0897"),
            std::string::npos);
  EXPECT_NE(refusal("(?y{w}:\\X)").find("regex \"(?y{w}:\\X)\" uses (?y{w})"), std::string::npos);
  EXPECT_EQ(matched(Regex("\\w+", "test"), young), std::vector<std::string>{young});
}

TEST(Regex, DeepAndLargePatternsMeetALimit) {
  EXPECT_NE(refusal(std::string(16000, '(') + std::string(16000, ')')), "");
  EXPECT_NE(refusal(std::string(10000, '[') + "a" + std::string(10000, ']')), "");
  EXPECT_NE(refusal("a{100001}"), "");
  refusal("(?:(?:(?:a{1000}){1000}){1000}){1000}", "aaaa");  // whatever comes, it comes soon
  refusal("(?i)" + std::string(2000, 's'), std::string(2000, 's'));
}

// Steps that look at the whole text are counted dearer, so that they end in time.
TEST(Regex, SlowStepsMeetALimit) {
  const std::string text(200000, 'a');
  for (const char* pattern : {"(a*)\\1[bc]", "(?<x>a*)\\k<x>[bc]", "(?>a*)[bc]", "\\G(?:a*+)b|c"}) {
    EXPECT_NE(refusal(pattern, text), "") << pattern;
  }
  EXPECT_NE(refusal("(?:(?:a|a){21}b)?.", text), "");  // each match is within its own limit
}

// Longer than what is searched in one call.
TEST(Regex, LongTextsMatchAsShortOnes) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += i % 7 == 0 ? "wörd\r\n" : "ab 12";
  for (const char* pattern : {"\\R", "\\w+|\\s+", "(?<=b )1", "^w", "d$", "ö", "(?m:b.1)", "(?<x>a)\\k<x>|2a"}) {
    size_t count = 0;
    Regex(pattern, "test").each_match(text, [&](size_t, size_t) { ++count; });
    size_t expected = 0;
    const std::string unit =
        "wörd\r\n"
        "ab 12"
        "ab 12"
        "ab 12"
        "ab 12"
        "ab 12"
        "ab 12";
    Regex(pattern, "test").each_match(unit + unit, [&](size_t, size_t) { ++expected; });
    size_t one = 0;
    Regex(pattern, "test").each_match(unit, [&](size_t, size_t) { ++one; });
    EXPECT_NEAR(static_cast<double>(count), static_cast<double>(expected - one) * 20000 / 7, 20) << pattern;
  }
}

TEST(Regex, OnePatternFromManyThreads) {
  const Regex regex("(?<x>\\p{L})\\k<x>|\\R|(?i:ß)", "test");
  const std::string text = "aabb ss\r\nStraße ﬃ";
  const std::vector<std::string> expected = matched(regex, text);
  std::vector<std::thread> threads;
  std::vector<int> same(4, 0);
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i)
        same[t] += matched(Regex("(?i)\\p{Kawi}|\\w", "t"), text).empty() ? 0 : matched(regex, text) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, std::vector<int>(4, 200));
}

// "first" is the piece that begins with the first character of the input, whatever normalizers made of it.
// libonig exports a regcomp whose structs are not the C library's: a program that links carousel must not get that one.
TEST(Regex, ThePosixFunctionsStayTheCLibrarys) {
  for (const char* name : {"regcomp", "regexec", "regerror", "regfree"}) {
    Dl_info found = {};
    ASSERT_NE(dladdr(dlsym(RTLD_DEFAULT, name), &found), 0) << name;
    // The C library's, or a sanitizer's in front of it.
    EXPECT_EQ(std::string(found.dli_fname).find("libonig"), std::string::npos) << name << ": " << found.dli_fname;
  }
}

TEST(Metaspace, MarksWhatTheReferenceMarks) {
  const auto texts = fixture()["metaspace_texts"].get<std::vector<std::string>>();
  ASSERT_GE(fixture()["metaspace"].size(), 50u);
  for (const Json& one : fixture()["metaspace"]) {
    Json json = fixture()["metaspace_base"];
    json["normalizer"] = one["normalizer"];
    json["pre_tokenizer"] = one["pre_tokenizer"];
    const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "t");
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(tokenizer.encode(texts[i], false), one["ids"][i].get<std::vector<int32_t>>())
          << "\"" << texts[i] << "\" " << one["normalizer"] << " " << one["pre_tokenizer"];
    }
  }
}

TEST(Metaspace, LegacyFlagMustNotContradict) {
  const auto load = [](const std::string& fields) {
    Json json = fixture()["metaspace_base"];
    json["pre_tokenizer"] = Json::parse(R"({"type": "Metaspace", "replacement": "▁", )" + fields + "}");
    return Tokenizer::from_json(json.dump(), "t");
  };
  EXPECT_EQ(load(R"("add_prefix_space": false)").encode("a", false).size(), 1u);
  EXPECT_EQ(load(R"("add_prefix_space": true)").encode("a", false).size(), 2u);
  EXPECT_EQ(load(R"("add_prefix_space": true, "prepend_scheme": "never")").encode("a", false).size(), 1u);
  EXPECT_THROW(load(R"("add_prefix_space": false, "prepend_scheme": "first")"), Error);
}

}  // namespace
}  // namespace carousel::text
