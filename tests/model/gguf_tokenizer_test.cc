// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json through the keys of a GGUF file and back: the ids of the reference library, from the keys alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/formats/gguf.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/vocabulary.h"
#include "carousel/text/tokenizer.h"
#include "tests/cli/run_command.h"

namespace carousel::model {
namespace {

const std::string kRoot = std::string(CAROUSEL_SOURCE_DIR) + "/";
constexpr const char* kWhole = "tokenizer.huggingface.json";

struct Source {
  const char* name;
  std::string tokenizer, expected;
  bool exact;  // the keys say all of it: no copy goes along
};

std::string through_file(formats::GgufKeys keys, bool with_whole) {
  const Scratch scratch;
  if (!with_whole) std::erase_if(keys, [](const auto& key) { return key.first == kWhole; });
  formats::GgufWriter(scratch / "t.gguf", keys, {}).finish();
  const formats::GgufFile file = formats::GgufFile::open(scratch / "t.gguf");
  return gguf_tokenizer(file.metadata(), "t.gguf");
}

class GgufTokenizer : public testing::TestWithParam<Source> {};

TEST_P(GgufTokenizer, KeysGiveTheSameIds) {
  const Source& source = GetParam();
  if (!std::filesystem::exists(kRoot + source.tokenizer)) GTEST_SKIP() << "no " << source.tokenizer;
  const std::string text = read_text_file(kRoot + source.tokenizer, size_t{1} << 28);
  const text::Tokenizer original = text::Tokenizer::from_json(text, source.name);
  const formats::GgufKeys keys = tokenizer_keys(text, original.vocab_size(), Json::object(), source.name);
  const bool whole = std::any_of(keys.begin(), keys.end(), [](const auto& key) { return key.first == kWhole; });
  EXPECT_EQ(whole, !source.exact);
  const std::string made = through_file(keys, false);
  const text::Tokenizer tokenizer = text::Tokenizer::from_json(made, "from keys");
  EXPECT_EQ(tokenizer.vocab_size(), original.vocab_size());
  const Json expected = read_json_file(kRoot + source.expected);
  ASSERT_GT(expected["cases"].size(), 10u);
  for (const Json& c : expected["cases"]) {
    const std::string input = c["text"];
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(input), ids) << input.substr(0, 100);
    EXPECT_EQ(tokenizer.encode(input, false), c["ids_no_special"].get<std::vector<int32_t>>()) << input.substr(0, 100);
    EXPECT_EQ(tokenizer.encode(input, false, false), original.encode(input, false, false)) << input.substr(0, 100);
    EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>()) << input.substr(0, 100);
    EXPECT_EQ(tokenizer.decode(ids, true), c["decoded_skip_special"].get<std::string>()) << input.substr(0, 100);
  }
  if (source.exact) {
    EXPECT_EQ(canonical_tokenizer(parse_json(made, "made")), canonical_tokenizer(parse_json(text, "original")));
  } else {
    EXPECT_EQ(through_file(keys, true), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Published, GgufTokenizer,
                         testing::Values(Source{"stories", "models/stories-xlstm/tokenizer.json",
                                                "tests/fixtures/tokenizers/stories-xlstm.json", true},
                                         Source{"llama", "../shared/models/stories15M/tokenizer.json",
                                                "../shared/models/stories15M/tokenizer_expected.json", true},
                                         Source{"gpt2", "../shared/tokenizers/gpt2/tokenizer.json",
                                                "../shared/tokenizers/gpt2/expected.json", true},
                                         Source{"neox", "../shared/tokenizers/gpt-neox-20b/tokenizer.json",
                                                "../shared/tokenizers/gpt-neox-20b/expected.json", false},
                                         Source{"qwen2", "../shared/tokenizers/qwen2_5/tokenizer.json",
                                                "../shared/tokenizers/qwen2_5/expected.json", true}),
                         [](const auto& param) { return std::string(param.param.name); });

// The small tokenizers of the repository: whatever the keys cannot say goes along whole.
TEST(GgufTokenizerFixtures, SameIdsAndText) {
  const Json all = read_json_file(kRoot + "tests/fixtures/tokenizers/small_tokenizers.json");
  int by_keys = 0;
  for (const Json& fixture : all["fixtures"]) {
    const std::string name = fixture["name"];
    SCOPED_TRACE(name);
    const std::string text = fixture["tokenizer"].dump();
    const formats::GgufKeys keys = tokenizer_keys(text, 0, Json::object(), name);
    by_keys += std::none_of(keys.begin(), keys.end(), [](const auto& key) { return key.first == kWhole; }) ? 1 : 0;
    const text::Tokenizer tokenizer = text::Tokenizer::from_json(through_file(keys, true), name);
    for (const Json& c : fixture["cases"]) {
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>()), ids) << c["text"];
      EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>()) << c["text"];
    }
  }
  EXPECT_GE(by_keys, 3);
}

// As phi-3's file from llama.cpp has it: <unk> of token type "control", and no tokenizer.json beside the keys.
TEST(GgufTokenizerFixtures, TheUnknownTokenMayBeAControlToken) {
  const std::string unknown = "<unk>", known = "a";
  const auto names = std::vector<std::string>{unknown, known, "\xE2\x96\x81"};
  formats::GgufKeys keys = {{"general.architecture", std::string("llama")},
                            {"tokenizer.ggml.model", std::string("llama")},
                            {"tokenizer.ggml.tokens", names},
                            {"tokenizer.ggml.scores", std::vector<float>{0, -1, -2}},
                            {"tokenizer.ggml.token_type", std::vector<int32_t>{3, 1, 1}},
                            {"tokenizer.ggml.unknown_token_id", uint32_t{0}},
                            {"tokenizer.ggml.add_bos_token", false}};
  const text::Tokenizer tokenizer = text::Tokenizer::from_json(through_file(keys, true), "keys");
  EXPECT_EQ(tokenizer.encode("aXa"), (std::vector<int32_t>{2, 1, 0, 1}));
}

// Whether the keys can say the tokenizer, cannot, or there is none.
TEST(GgufTokenizerFixtures, TokensThatBeginEndAndPadHaveKeys) {
  const Json config{{"bos_token_id", 4}, {"eos_token_id", {2, 7, 5000, 3, 9, 7}}, {"pad_token_id", 1}};
  const std::string stories = read_text_file(kRoot + "models/stories-xlstm/tokenizer.json", size_t{1} << 28);
  const std::string unsaid = R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";
  for (const std::string& text : {stories, unsaid, std::string()}) {
    SCOPED_TRACE(text.substr(0, 40));
    const formats::GgufKeys keys = tokenizer_keys(text, 4096, config, "tokenizer");
    const auto value = [&](const std::string& name) {
      const auto found = std::find_if(keys.begin(), keys.end(), [&](const auto& key) { return key.first == name; });
      return found == keys.end() ? formats::GgufValue() : found->second;
    };
    EXPECT_EQ(value("tokenizer.ggml.model") == formats::GgufValue(std::string("no_vocab")), text != stories);
    EXPECT_EQ(value(kWhole) == formats::GgufValue(unsaid), text == unsaid);
    EXPECT_TRUE(value("tokenizer.ggml.bos_token_id") == formats::GgufValue(uint32_t{4}));
    EXPECT_TRUE(value("tokenizer.ggml.eos_token_id") == formats::GgufValue(uint32_t{2}));
    EXPECT_TRUE(value("tokenizer.ggml.eot_token_id") == formats::GgufValue(uint32_t{7}));
    EXPECT_TRUE(value("tokenizer.ggml.eom_token_id") == formats::GgufValue(uint32_t{3}));
    EXPECT_TRUE(value("tokenizer.ggml.padding_token_id") == formats::GgufValue(uint32_t{1}));
    EXPECT_TRUE(value(kGgufFurtherEnds) == formats::GgufValue(std::vector<int32_t>{9})) << "5000 is no id";
  }
}

}  // namespace
}  // namespace carousel::model
