// SPDX-License-Identifier: Apache-2.0
// Ids and decoded text against what the reference library gave for published tokenizers and for the small ones in
// tests/fixtures/tokenizers (tools/make_tokenizer_fixtures.py wrote those).
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/text/tokenizer.h"

namespace carousel::text {
namespace {

struct Source {
  std::string name;
  std::string tokenizer;
  std::string expected;
};

std::string stream_decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string out;
  for (const int32_t id : ids) out += decoder.push(id);
  return out + decoder.flush();
}

void check_cases(const Tokenizer& tokenizer, const Json& expected) {
  ASSERT_FALSE(expected["cases"].empty());
  for (const Json& c : expected["cases"]) {
    const std::string text = c["text"];
    const std::string shown = text.substr(0, 200);
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text), ids) << shown;
    EXPECT_EQ(tokenizer.encode(text, false), c["ids_no_special"].get<std::vector<int32_t>>()) << shown;
    if (c.contains("ids_plain")) {
      EXPECT_EQ(tokenizer.encode(text, false, false), c["ids_plain"].get<std::vector<int32_t>>()) << shown;
    }
    EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>()) << shown;
    EXPECT_EQ(tokenizer.decode(ids, true), c["decoded_skip_special"].get<std::string>()) << shown;
    EXPECT_EQ(stream_decode(tokenizer, ids, false), c["decoded"].get<std::string>()) << shown;
    EXPECT_EQ(stream_decode(tokenizer, ids, true), c["decoded_skip_special"].get<std::string>()) << shown;
  }
  if (!expected.contains("decodes")) return;
  for (const Json& d : expected["decodes"]) {
    const auto ids = d["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.decode(ids), d["decoded"].get<std::string>()) << d.dump();
    EXPECT_EQ(tokenizer.decode(ids, true), d["decoded_skip_special"].get<std::string>()) << d.dump();
    EXPECT_EQ(stream_decode(tokenizer, ids, false), d["decoded"].get<std::string>()) << d.dump();
  }
}

class TokenizerReference : public testing::TestWithParam<Source> {};

TEST_P(TokenizerReference, SameIdsAndText) {
  const std::string root = std::string(CAROUSEL_SOURCE_DIR) + "/";
  if (!std::filesystem::exists(root + GetParam().tokenizer)) GTEST_SKIP() << "no " << GetParam().tokenizer;
  const Tokenizer tokenizer = Tokenizer::from_file(root + GetParam().tokenizer);
  check_cases(tokenizer, read_json_file(root + GetParam().expected));
}

std::vector<Source> published() {
  std::vector<Source> out;
  for (const char* name : {"gpt-neox-20b", "gpt2", "qwen2_5"}) {
    const std::string folder = std::string("../shared/tokenizers/") + name;
    out.push_back({name, folder + "/tokenizer.json", folder + "/expected.json"});
  }
  for (const char* name : {"stories-xlstm", "stories15M"}) {
    const std::string folder = std::string("../shared/models/") + name;
    out.push_back({name, folder + "/tokenizer.json", folder + "/tokenizer_expected.json"});
  }
  out.push_back({"bundled", "models/stories-xlstm/tokenizer.json", "tests/fixtures/tokenizers/stories-xlstm.json"});
  return out;
}

std::string name_of(const testing::TestParamInfo<Source>& source) {
  std::string name = source.param.name;
  for (char& c : name) c = c == '-' || c == '.' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Published, TokenizerReference, testing::ValuesIn(published()), name_of);

// Each file in the folder holds {"name", "tokenizer", "cases", "decodes"} entries under "fixtures".
TEST(TokenizerFixtures, SameIdsAndText) {
  const Json all =
      read_json_file(std::string(CAROUSEL_SOURCE_DIR) + "/tests/fixtures/tokenizers/small_tokenizers.json");
  ASSERT_GE(all["fixtures"].size(), 20u);
  for (const Json& fixture : all["fixtures"]) {
    SCOPED_TRACE(fixture["name"].get<std::string>());
    check_cases(Tokenizer::from_json(fixture["tokenizer"].dump(), fixture["name"]), fixture);
  }
}

}  // namespace
}  // namespace carousel::text
