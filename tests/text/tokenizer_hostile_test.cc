// SPDX-License-Identifier: Apache-2.0
// Files that are no tokenizer, or mean harm: each gives one clear Error(kInput), naming the file and what is wrong.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/regex.h"
#include "carousel/text/tokenizer.h"

namespace carousel::text {
namespace {

Json valid() {
  return Json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]}})");
}

// "" when the text is accepted; every failure must be kInput and begin with the source's name.
std::string refusal(const std::string& json) {
  try {
    Tokenizer::from_json(json, "t.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    EXPECT_EQ(std::string(error.what()).rfind("t.json: ", 0), 0u) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    EXPECT_LT(std::string(error.what()).size(), 600u);
    return error.what();
  }
  return "";
}

struct Change {
  const char* pointer;
  const char* value;
  const char* expected;  // part of the message
};

TEST(TokenizerHostile, TheUnchangedFileIsAccepted) {
  EXPECT_EQ(refusal(valid().dump()), "");
  EXPECT_EQ(Tokenizer::from_json(valid().dump(), "t").encode("abc<s>d"), (std::vector<int32_t>{2, 3, 4}));
}

TEST(TokenizerHostile, EveryWrongFieldIsNamed) {
  const std::vector<Change> changes = {
      {"/model", "7", "expected '{'"},
      {"/model", "null", "expected '{'"},
      {"/model/type", "\"Unigram\"", "type \"Unigram\" is not supported, expected \"BPE\""},
      {"/model/type", "\"WordPiece\"", "WordPiece"},
      {"/model/type", "3", "\"type\" is 3, expected a string"},
      {"/model/vocab", "[]", "expected '{'"},
      {"/model/vocab/a", "-1", "token \"a\" has id -1, expected 0 to"},
      {"/model/vocab/a", "4294967296", "id 4294967296"},
      {"/model/vocab/a", "99999999999999999999", "expected an integer"},
      {"/model/vocab/a", "16000000", "id 16000000, expected 0 to"},
      {"/model/vocab/a", "1.5", "expected an integer"},
      {"/model/vocab/a", "\"0\"", "expected an integer"},
      {"/model/vocab/a", "1", "id 1 belongs to token"},
      {"/model/merges", "{}", "expected '['"},
      {"/model/merges", "[\"a x\"]", "\"x\" is not in vocab"},
      {"/model/merges", "[\"b a\"]", "\"ba\" is not in vocab"},
      {"/model/merges", "[\"ab\"]", "expected two tokens with a space between"},
      {"/model/merges", "[\"a b c\"]", "expected two tokens with a space between"},
      {"/model/merges", "[[\"a\"]]", "expected ','"},
      {"/model/merges", "[[\"a\",\"b\",\"c\"]]", "expected ']'"},
      {"/model/merges", "[[\"a\",7]]", "expected a string"},
      {"/model/merges", "[7]", "expected '['"},
      {"/model/dropout", "0.1", "\"dropout\" is 0.1"},
      {"/model/unk_token", "\"<unk>\"", "unk_token \"<unk>\" is not in vocab"},
      {"/model/unk_token", "0", "\"unk_token\" is 0"},
      {"/model/byte_fallback", "\"yes\"", "\"byte_fallback\" is \"yes\", expected true or false"},
      {"/model/ignore_merges", "1", "\"ignore_merges\" is 1"},
      {"/model/surprise", "1", "unknown key \"surprise\""},
      {"/added_tokens", "{}", "\"added_tokens\" is {}, expected a list"},
      {"/added_tokens/0", "4", "expected an object"},
      {"/added_tokens/0/id", "-4", "id -4"},
      {"/added_tokens/0/id", "0", "id 0 belongs to token \"a\""},
      {"/added_tokens/0/id", "1e3", "expected an integer"},
      {"/added_tokens/0/id", "2000000", "id 2000000"},
      {"/added_tokens/0/content", "\"a\"", "\"a\" has id 4, but 0 in the model's vocab"},
      {"/added_tokens/0/content", "null", "\"content\" is missing"},
      {"/added_tokens/0/special", "\"\"", "\"special\" is \"\""},
      {"/added_tokens/1", R"({"id": 4, "content": "<t>"})", "id 4 belongs to token \"<s>\" and to \"<t>\""},
      {"/added_tokens/1", R"({"id": 5, "content": "<s>"})", "token \"<s>\" has id 4 and id 5"},
      {"/normalizer", "[]", "expected an object"},
      {"/normalizer", "{}", "\"type\" is missing"},
      {"/normalizer", R"({"type": "Nmt"})", "normalizer: type \"Nmt\" is not supported"},
      {"/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": ""})", "\"Precompiled\" is not supported"},
      {"/normalizer", R"({"type": "Replace", "content": ""})", "\"pattern\" is missing"},
      {"/normalizer", R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})", "\"pattern\" is empty"},
      {"/normalizer", R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})", "does not compile"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": 3})", "\"normalizers\" is not a list"},
      {"/pre_tokenizer", R"({"type": "BertPreTokenizer"})", "\"BertPreTokenizer\" is not supported"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "[a"}, "behavior": "Isolated"})", "regex \"[a\""},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd"})", "expected one of"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": 4}, "behavior": "Isolated"})", "expected a string"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(?I)b"}, "behavior": "Isolated"})",
       "regex \"(?I)b\" uses"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "\\p{X}"}, "behavior": "Isolated"})", "not compile"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", "not one character"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "prepend_scheme": "last"})", "expected one of"},
      {"/pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": 1})", "expected true or false"},
      {"/post_processor", R"({"type": "BertProcessing"})", "\"BertProcessing\" is not supported"},
      {"/post_processor", R"({"type": "TemplateProcessing"})", "\"single\" is not a list"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})", "the text 0 times"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}},
         {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}})",
       "has no \"x\""},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}},
         {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"x": {"ids": [99]}}})",
       "id 99 is no token"},
      {"/decoder", R"({"type": "WordPiece"})", "decoder: type \"WordPiece\" is not supported"},
      {"/decoder", R"({"type": "BPEDecoder", "suffix": "</w>"})", "\"BPEDecoder\" is not supported"},
      {"/decoder", R"({"type": "Strip", "content": "", "start": 1, "stop": 0})", "expected one character"},
      {"/decoder", R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})", "\"start\" is -1"},
  };
  for (const Change& change : changes) {
    Json json = valid();
    json[Json::json_pointer(change.pointer)] = "@";
    std::string text = json.dump();
    text.replace(text.find("\"@\""), 3, change.value);
    const std::string message = refusal(text);
    EXPECT_NE(message.find(change.expected), std::string::npos) << change.pointer << " = " << change.value << "\n"
                                                                << message;
  }
}

TEST(TokenizerHostile, BrokenJson) {
  const std::string good = valid().dump();
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(refusal(good.substr(0, size)), "") << size;
  EXPECT_NE(refusal(good + "x").find("expected the end"), std::string::npos);
  EXPECT_NE(refusal("[]"), "");
  EXPECT_NE(refusal("{\"model\": {}}").find("\"vocab\" is missing"), std::string::npos);
  EXPECT_NE(refusal("{}").find("\"model\" is missing"), std::string::npos);
  EXPECT_NE(refusal("{\"a\": 1, \"a\": 2}").find("twice"), std::string::npos);
  EXPECT_NE(refusal(R"({"model": {"vocab": {"a": 0, "a": 0}, "merges": []}})").find("twice"), std::string::npos);
  EXPECT_NE(refusal("{\"model\": \xFF}").find("not valid UTF-8 at byte 10"), std::string::npos);
  EXPECT_NE(refusal("{\"x\": " + std::string(100000, '[')).find("deeper than 64"), std::string::npos);
  EXPECT_NE(refusal(R"({"model": {"vocab": {"\ud800": 0}, "merges": []}})").find("surrogate"), std::string::npos);
  EXPECT_NE(refusal(R"({"model": {"vocab": {"\q": 0}, "merges": []}})").find("escape"), std::string::npos);
}

TEST(TokenizerHostile, EscapesAndHolesAreRead) {
  const Tokenizer tokenizer = Tokenizer::from_json(
      R"({"model": {"vocab": {"\u0061\n": 900, "\ud83d\ude00": 3, "<0x-1>": 5, "": 7}, "merges": []}})", "t");
  EXPECT_EQ(tokenizer.vocab_size(), 901);
  EXPECT_EQ(tokenizer.id_of("a\n"), 900);
  EXPECT_EQ(tokenizer.encode("\xF0\x9F\x98\x80"), std::vector<int32_t>{3});
  EXPECT_EQ(tokenizer.summary().tokens, 4);
}

// Doubling a text 60 times must meet a limit, not the end of memory.
TEST(TokenizerHostile, GrowingReplacementsMeetALimit) {
  Json json = valid();
  Json steps = Json::array();
  for (int i = 0; i < 60; ++i) {
    steps.push_back(Json{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "t.json");
  EXPECT_THROW(tokenizer.encode("aaaa"), Error);
}

TEST(Regex, BacktrackingMeetsALimit) {
  const std::string text(200000, 'a');
  for (const char* pattern : {"(a+)+[xy]", "(a|aa)+[bc]", "a*a*a*a*a*a*[bc]", "a\\g<0>?\\g<0>?[bc]"}) {
    try {
      Regex(pattern, "r").each_match(text, [](size_t, size_t) {});
      ADD_FAILURE() << pattern << " met no limit";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << pattern;
      EXPECT_NE(std::string(error.what()).find("on a text of 200000 bytes"), std::string::npos) << error.what();
    }
  }
}

// Repeats of one character class need no stack, groups need some: both must do ordinary long texts.
TEST(Regex, LongMatchesFit) {
  const std::string text = std::string(size_t{1} << 20, 'a') + " ";
  for (const char* pattern : {"\\p{L}+", "\\s+(?!\\S)|a+", "[^\\s]+"}) {
    size_t longest = 0;
    Regex(pattern, "r").each_match(text, [&](size_t begin, size_t end) { longest = std::max(longest, end - begin); });
    EXPECT_EQ(longest, size_t{1} << 20) << pattern;
  }
  size_t longest = 0;
  Regex("(?:a|b)+", "r").each_match(text.substr(0, 20000), [&](size_t b, size_t e) {
    longest = std::max(longest, e - b);
  });
  EXPECT_EQ(longest, 20000u);
}

}  // namespace
}  // namespace carousel::text
