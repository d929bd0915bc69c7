// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/json.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "carousel/core/error.h"
#include "tests/scratch.h"

namespace carousel {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Json parse(const std::string& text) { return parse_json(text, "x.json"); }
std::string refusal(const std::string& text) {
  return message_of([&] { parse(text); });
}

TEST(Json, ParsesValues) {
  const Json value = parse(R"( {"a": [1, -2, 3.5, true, null, "s"], "b": {"c": {}}} )");
  EXPECT_EQ(value["a"][1], -2);
  EXPECT_EQ(value["a"][5], "s");
  EXPECT_TRUE(value["b"]["c"].empty());
  EXPECT_EQ(parse("3"), 3);
  EXPECT_EQ(parse("[]"), Json::array());
  EXPECT_EQ(parse("\"\\u00e9\\ud83d\\ude00\""), "\xc3\xa9\xf0\x9f\x98\x80");
}

TEST(Json, SyntaxErrorsNameTheByte) {
  EXPECT_EQ(refusal("").rfind("x.json: not valid JSON at byte 1: ", 0), 0u) << refusal("");
  EXPECT_EQ(refusal("{\"a\": 1,}").rfind("x.json: not valid JSON at byte 9: ", 0), 0u) << refusal("{\"a\": 1,}");
  EXPECT_EQ(refusal("{} {}").rfind("x.json: not valid JSON at byte 4: ", 0), 0u) << refusal("{} {}");
  for (const char* text :
       {"nul", "[1", "\"\xff\"", "1e999", "NaN", "Infinity", "'a'", "{1: 2}", "[1 2]", "\"\\ud800\"", "01"}) {
    EXPECT_EQ(refusal(text).rfind("x.json: not valid JSON at byte ", 0), 0u) << text << ": " << refusal(text);
  }
}

TEST(Json, AZeroByteIsNotTheEnd) {
  EXPECT_EQ(refusal(std::string("{}\0garbage", 10)), "x.json: not valid JSON at byte 3: a zero byte");
}

TEST(Json, MessagesStayShortAndOnOneLine) {
  for (const std::string& text : {"\"" + std::string(5000, 'a'), std::string("[\n\n\x01"), std::string(100, '\xff')}) {
    EXPECT_LT(refusal(text).size(), 300u);
    EXPECT_EQ(refusal(text).find('\n'), std::string::npos);
  }
}

TEST(Json, DuplicateKeysAreRefused) {
  EXPECT_EQ(refusal(R"({"b": {"a": 1, "a": 2}})"), "x.json: key \"a\" appears twice in one object");
  EXPECT_EQ(parse(R"([{"a": 1}, {"a": 2}])").size(), 2u);
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal(nested(64)), "no error");
  EXPECT_EQ(refusal(nested(65)), "x.json: JSON nests deeper than 64 levels");
  EXPECT_EQ(refusal(std::string(1000000, '[')), "x.json: JSON nests deeper than 64 levels");
  EXPECT_EQ(message_of([] { parse_json("[[1]]", "y", {100, 1}); }), "y: JSON nests deeper than 1 levels");
}

TEST(Json, SizeIsBounded) {
  EXPECT_EQ(message_of([] { parse_json("[1, 2]", "y", {5, 4}); }), "y: JSON of 6 bytes, expected at most 5");
}

TEST(Json, NonFiniteNumbersOfTransformersAreRead) {
  const Json value = parse(R"({"a": {"__float__": "Infinity"}, "b": [{"__float__": "NaN"}],
                               "c": {"__float__": "-Infinity"}, "d": {"__float__": "x"}, "e": {"__float__": 1, "f": 2}})");
  EXPECT_EQ(value["a"].get<double>(), INFINITY);
  EXPECT_TRUE(std::isnan(value["b"][0].get<double>()));
  EXPECT_EQ(value["c"].get<double>(), -INFINITY);
  EXPECT_TRUE(value["d"].is_object());
  EXPECT_TRUE(value["e"].is_object());
}

TEST(JsonFile, OnlyRegularFilesAreRead) {
  const Scratch folder;
  const std::string path = folder / "x.json";
  std::ofstream(path) << "[1, 2]";
  EXPECT_EQ(read_json_file(path).size(), 2u);
  EXPECT_EQ(message_of([&] { read_text_file(path, 5); }), path + ": larger than 5 bytes");
  EXPECT_EQ(message_of([&] { read_text_file(folder.path(), 5); }), folder.path() + ": not a regular file");
  EXPECT_EQ(message_of([&] { read_text_file(path + "?", 5); }), path + "?: cannot open: No such file or directory");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(message_of([&] { read_text_file(folder / "pipe", 5); }), (folder / "pipe") + ": not a regular file");
}

TEST(JsonFile, WritingTakesNobodysPlace) {
  const Scratch folder;
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(message_of([&] { write_text_file(pipe, "x"); }),
            pipe + ": exists and is no regular file, expected one or none to write");
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_EQ(message_of([&] { write_text_file(folder / "no/file", "x"); }),
            (folder / "no/file") + ": cannot create: No such file or directory");
  write_text_file(folder / "file", "x");
  write_text_file(folder / "file", "yz");
  EXPECT_EQ(read_text_file(folder / "file", 5), "yz");
}

class FieldsTest : public testing::Test {
 protected:
  static std::string refusal(const char* text, const std::function<void(Fields&)>& read) {
    return message_of([&] {
      Fields fields(parse(text), "c");
      read(fields);
      fields.finish();
    });
  }
};

TEST_F(FieldsTest, ReadsValuesAndDefaults) {
  Fields fields(parse(R"({"i": 3, "n": 0.5, "b": true, "s": "x", "l": ["a"], "k": [1, 2], "o": {"p": 1}, "z": null})"),
                "c");
  EXPECT_EQ(fields.integer("i", 0, 3), 3);
  EXPECT_EQ(fields.integer("absent", 0, 9, 7), 7);
  EXPECT_EQ(fields.integer("z", 0, 9, 8), 8);
  EXPECT_EQ(fields.number("n", 0, 1), 0.5);
  EXPECT_EQ(fields.number("i", 0, 5), 3.0);
  EXPECT_TRUE(fields.boolean("b"));
  EXPECT_EQ(fields.string("s"), "x");
  EXPECT_EQ(fields.choice("s", {"w", "x"}, {}), "x");
  EXPECT_EQ(fields.strings("l", 1), std::vector<std::string>{"a"});
  EXPECT_EQ(fields.integers("k", 0, 2, 2), (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(fields.strings("absent", 1).empty());
  EXPECT_EQ(fields.object("o")["p"], 1);
  EXPECT_TRUE(fields.object("absent").empty());
  EXPECT_EQ(fields.raw("z"), nullptr);
  EXPECT_TRUE(fields.has("i"));
  EXPECT_FALSE(fields.has("z"));
  EXPECT_EQ(message_of([&] { fields.finish(); }), "no error");
}

TEST_F(FieldsTest, WrongValuesNameGotAndExpected) {
  const auto integer = [](Fields& f) { f.integer("a", 1, 9); };
  EXPECT_EQ(refusal(R"({"a": 10})", integer), "c: \"a\" is 10, expected an integer from 1 to 9");
  EXPECT_EQ(refusal(R"({"a": 1.5})", integer), "c: \"a\" is 1.5, expected an integer from 1 to 9");
  EXPECT_EQ(refusal(R"({"a": true})", integer), "c: \"a\" is true, expected an integer from 1 to 9");
  EXPECT_EQ(refusal(R"({"a": 18446744073709551615})", integer),
            "c: \"a\" is 18446744073709551615, expected an integer from 1 to 9");
  EXPECT_EQ(refusal(R"({})", integer), "c: \"a\" is missing and has no default");
  const auto number = [](Fields& f) { f.number("a", 0, 1); };
  EXPECT_EQ(refusal(R"({"a": "1"})", number), "c: \"a\" is \"1\", expected a number from 0 to 1");
  EXPECT_NE(refusal(R"({"a": {"__float__": "NaN"}})", number), "no error");
  const auto below = [](Fields& f) { f.number("a", 0, std::nextafter(1.0, 0.0)); };
  EXPECT_EQ(refusal(R"({"a": 1})", below), "c: \"a\" is 1, expected a number >= 0 and < 1");
  const auto above = [](Fields& f) { f.number("a", std::nextafter(0.5, 1.0), 1e9); };
  EXPECT_EQ(refusal(R"({"a": 0.5})", above), "c: \"a\" is 0.5, expected a number > 0.5 and <= 1e+09");
  EXPECT_EQ(refusal(R"({"a": 1})", [](Fields& f) { f.boolean("a"); }), "c: \"a\" is 1, expected true or false");
  EXPECT_EQ(refusal(R"({"a": []})", [](Fields& f) { f.string("a"); }), "c: \"a\" is [], expected a string");
  EXPECT_EQ(refusal(R"({"a": "z"})",
                    [](Fields& f) {
                      f.choice("a", {"x", "y"}, {});
                    }),
            "c: \"a\" is \"z\", expected one of: x, y");
  EXPECT_EQ(refusal(R"({"a": ["x", 1]})", [](Fields& f) { f.strings("a", 2); }),
            "c: \"a\" is 1, expected a string in the list");
  EXPECT_EQ(refusal(R"({"a": ["x", "y"]})", [](Fields& f) { f.strings("a", 1); }),
            "c: \"a\" is [\"x\",\"y\"], expected a list of at most 1 strings");
  EXPECT_EQ(refusal(R"({"a": [-1]})", [](Fields& f) { f.integers("a", 0, 1, 1); }),
            "c: \"a\" is -1, expected integers from 0 to 1 in the list");
  EXPECT_EQ(refusal(R"({"a": 1})", [](Fields& f) { f.object("a"); }), "c: \"a\" is 1, expected an object");
  EXPECT_EQ(message_of([] { Fields(parse("[1]"), "c"); }), "c: got [1], expected an object");
}

TEST_F(FieldsTest, UnreadKeysListTheKnownOnes) {
  EXPECT_EQ(refusal(R"({"z": 1, "b": 2})",
                    [](Fields& f) {
                      f.integer("b", 0, 9);
                      f.ignore({"a"});
                    }),
            "c: unknown key \"z\"; known keys: a, b");
}

TEST(JsonBrief, ShortensAndSurvivesBadText) {
  EXPECT_EQ(brief(Json("x")), "\"x\"");
  EXPECT_EQ(brief(Json(std::nan(""))), "nan");
  EXPECT_EQ(brief(Json(std::string(100, 'a'))).size(), 60u);
  EXPECT_FALSE(brief(Json("\xff")).empty());
}

}  // namespace
}  // namespace carousel
