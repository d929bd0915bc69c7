// SPDX-License-Identifier: Apache-2.0
// YAML as the JSON it stands for, and what is refused.
#include "carousel/formats/yaml.h"

#include <gtest/gtest.h>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

std::string refusal(const std::string& text, const JsonLimits& limits = {size_t{1} << 20, 64}) {
  try {
    parse_yaml(text, "config.yaml", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "accepted";
}

TEST(Yaml, ScalarsFollowTheCoreSchema) {
  const Json value = parse_yaml(
      "a: 3\nb: -2.5\nc: 1e-5\nd: true\ne: ~\nf: null\ng: text with words\nh: '3'\ni: \"a\\tb\"\nj:\nk: yes\nl: +7\n"
      "m: 12345678901234567890\nn: 1.2.3\no: 0x10\np: -\xc3\xa9\n",
      "config.yaml");
  const Json expected = {{"a", 3},
                         {"b", -2.5},
                         {"c", 1e-5},
                         {"d", true},
                         {"e", nullptr},
                         {"f", nullptr},
                         {"g", "text with words"},
                         {"h", "3"},
                         {"i", "a\tb"},
                         {"j", nullptr},
                         {"k", "yes"},
                         {"l", 7},
                         {"m", 12345678901234567890.0},
                         {"n", "1.2.3"},
                         {"o", "0x10"},
                         {"p", "-\xc3\xa9"}};
  EXPECT_EQ(value, expected);
  EXPECT_TRUE(value["a"].is_number_integer());
  EXPECT_TRUE(value["c"].is_number_float());
}

TEST(Yaml, NestsInBlocksAndInFlow) {
  const Json value =
      parse_yaml("---\nmlstm_block:\n  mlstm:\n    num_heads: 4\n  list:\n  - 1\n  - {x: [2, 3], y: {}}\nempty: []\n",
                 "config.yaml");
  const Json expected = {
      {"mlstm_block", {{"mlstm", {{"num_heads", 4}}}, {"list", {1, {{"x", {2, 3}}, {"y", Json::object()}}}}}},
      {"empty", Json::array()}};
  EXPECT_EQ(value, expected);
  EXPECT_EQ(parse_yaml("{\"a\": [1, null, \"x\"]}", "config.yaml"), (Json{{"a", {1, nullptr, "x"}}}));  // JSON is YAML
}

TEST(Yaml, WhatCouldGrowOrSurpriseIsRefused) {
  const auto refuses = [](const std::string& text, const std::string& what) {
    EXPECT_NE(refusal(text).find(what), std::string::npos) << refusal(text);
    EXPECT_EQ(refusal(text).find("config.yaml: "), 0u);
    EXPECT_EQ(refusal(text).find('\n'), std::string::npos);
  };
  refuses("a: &x [1]\n", "an anchor");
  refuses("a: &x 1\n", "an anchor");
  refuses("a: *x\n", "");
  refuses("a: 1\nb: 2\na: 3\n", "line 3: key \"a\" appears twice");
  refuses("<<: {a: 1}\n", "a merge key");
  refuses("? [1, 2]\n: 3\n", "a key that is not a scalar");
  refuses("a: !!python/object:os.system x\n", "a tag");
  refuses("a: !!set {x}\n", "a tag");
  refuses("a: 1\n---\nb: 2\n", "two documents");
  refuses("", "is empty");
  refuses("# nothing\n", "is empty");
  refuses("a: [1, 2\n", "line ");
  refuses("a: b: c\n", "line 1, column ");
  refuses(std::string("a: \0b", 5), "a zero byte");
  refuses("a: \"\xff\xfe\"\n", "");
  std::string deep;
  for (int level = 0; level < 100; ++level) deep += "- ";
  refuses(deep + "x\n", "nests deeper than 64 levels");
  refuses(std::string(100000, '['), "");
  refuses(std::string(100000, '{'), "");
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char level = 'b'; level < 'j'; ++level) {
    bomb += std::string(1, level) + ": &" + level + " [*" + static_cast<char>(level - 1) + ", *" +
            static_cast<char>(level - 1) + "]\n";
  }
  refuses(bomb, "an anchor");
  EXPECT_NE(refusal("a: 12345", {4, 8}).find("expected at most 4"), std::string::npos);
}

}  // namespace
}  // namespace carousel::formats
