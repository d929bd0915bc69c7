// SPDX-License-Identifier: Apache-2.0
// Properties of the tokenizer that hold whatever the vocabulary: round trips, streaming, size, and published splits.
#include "carousel/text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/pre_tokenizer.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

std::string shared(const std::string& path) { return std::string(CAROUSEL_SOURCE_DIR) + "/../shared/" + path; }

Tokenizer bundled() {
  return Tokenizer::from_file(std::string(CAROUSEL_SOURCE_DIR) + "/models/stories-xlstm/tokenizer.json");
}
bool has_bundled() {
  return std::filesystem::exists(std::string(CAROUSEL_SOURCE_DIR) + "/models/stories-xlstm/tokenizer.json");
}

Json fixture(const std::string& name) {
  const Json all =
      read_json_file(std::string(CAROUSEL_SOURCE_DIR) + "/tests/fixtures/tokenizers/small_tokenizers.json");
  for (const Json& one : all["fixtures"]) {
    if (one["name"] == name) return one["tokenizer"];
  }
  ADD_FAILURE() << "no fixture " << name;
  return nullptr;
}
Tokenizer small(const std::string& name) { return Tokenizer::from_json(fixture(name).dump(), name); }

std::string random_bytes(std::mt19937& random, size_t size) {
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random() & 0xFF);
  return out;
}

TEST(Tokenizer, BytesAreTheirOwnIds) {
  const Tokenizer tokenizer = Tokenizer::bytes();
  EXPECT_EQ(tokenizer.vocab_size(), 256);
  EXPECT_EQ(tokenizer.encode("a\xC3\xA9\xFF"), (std::vector<int32_t>{97, 0xC3, 0xA9, 255}));
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{97, 0xC3, 0xA9, 255}), "a\xC3\xA9\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.decode_bytes(std::vector<int32_t>{97, 0xC3, 0xA9, 255}), "a\xC3\xA9\xFF");
  EXPECT_EQ(tokenizer.summary().kind, "bytes");
}

TEST(Tokenizer, ByteLevelKeepsArbitraryBytes) {
  std::mt19937 random(1);
  for (const Tokenizer& tokenizer : {Tokenizer::bytes(), small("gpt2"), small("llama3-ignore-merges")}) {
    for (int i = 0; i < 200; ++i) {
      const std::string text = random_bytes(random, random() % 200);
      const std::vector<int32_t> ids = tokenizer.encode(text, false);
      EXPECT_EQ(tokenizer.decode_bytes(ids), text);
      EXPECT_EQ(tokenizer.decode(ids), replace_invalid(text));
    }
  }
}

TEST(Tokenizer, OthersReadInvalidBytesAsReplacement) {
  for (const char* name : {"sentencepiece", "unknown-fused", "metaspace-first-True"}) {
    const Tokenizer tokenizer = small(name);
    EXPECT_EQ(tokenizer.encode("h\xFF\xC3w\xE6\x97"), tokenizer.encode(replace_invalid("h\xFF\xC3w\xE6\x97"))) << name;
  }
}

// Whatever the ids, pieces are whole characters and join to what decode gives.
TEST(StreamDecoder, PiecesAreWholeCharactersAndJoinToDecode) {
  std::mt19937 random(2);
  const Json all =
      read_json_file(std::string(CAROUSEL_SOURCE_DIR) + "/tests/fixtures/tokenizers/small_tokenizers.json");
  for (const Json& one : all["fixtures"]) {
    const Tokenizer tokenizer = Tokenizer::from_json(one["tokenizer"].dump(), one["name"]);
    for (int round = 0; round < 40; ++round) {
      std::vector<int32_t> ids;
      for (int i = 0; i < 30; ++i) {
        ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(tokenizer.vocab_size() + 3)) - 1);
      }
      if (round % 2 == 0) ids = tokenizer.encode("日本語 👩\u200d👧 héllo 🇦🇹 x ☃️ ");
      for (const bool skip_special : {false, true}) {
        StreamDecoder stream(tokenizer, skip_special);
        std::string joined;
        for (const int32_t id : ids) {
          const std::string piece = stream.push(id);
          EXPECT_EQ(valid_prefix(piece), piece.size()) << one["name"];
          joined += piece;
        }
        joined += stream.flush();
        EXPECT_EQ(joined, tokenizer.decode(ids, skip_special)) << one["name"];
      }
    }
  }
}

TEST(StreamDecoder, PrintsACharacterAsSoonAsItIsWhole) {
  const Tokenizer tokenizer = Tokenizer::bytes();
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.push(0x9F), "");
  EXPECT_EQ(stream.push(0x98), "");
  EXPECT_EQ(stream.push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.push(0xE6), "");
  EXPECT_EQ(stream.push('b'),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(stream.push(0xE6), "");
  EXPECT_EQ(stream.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.flush(), "");
}

TEST(StreamDecoder, StripsTheLeadingSpaceOnceAndStreamsTheRest) {
  const Tokenizer tokenizer = small("sentencepiece");
  StreamDecoder stream(tokenizer, true);
  const std::vector<int32_t> ids = tokenizer.encode("hello world");
  EXPECT_EQ(stream.push(ids[0]), "");  // <s>
  EXPECT_EQ(stream.push(ids[1]), "hello");
  EXPECT_EQ(stream.push(ids[2]), " world");
  EXPECT_EQ(stream.flush(), "");
  EXPECT_EQ(stream.push(ids[1]), "hello");  // flush began a new text
}

TEST(Tokenizer, SpecialTokensAreParsedOrText) {
  if (!has_bundled()) GTEST_SKIP() << "no bundled model";
  const Tokenizer tokenizer = bundled();
  EXPECT_EQ(tokenizer.encode("<|endoftext|>"), std::vector<int32_t>{0});
  EXPECT_GT(tokenizer.encode("<|endoftext|>", true, false).size(), 3u);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("<|endoftext|>", true, false), true), "<|endoftext|>");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{0}, true), "");
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(100));
  EXPECT_EQ(tokenizer.id_of("<|pad|>"), 1);
  EXPECT_FALSE(tokenizer.id_of("no such token").has_value());
  EXPECT_EQ(tokenizer.token_text(-1), "");
  EXPECT_EQ(tokenizer.token_text(int64_t{1} << 40), "");
  const TokenizerSummary summary = tokenizer.summary();
  EXPECT_EQ(summary.kind, "byte-level BPE");
  EXPECT_EQ(summary.vocab_size, 4096);
  EXPECT_EQ(summary.merges, 3838);
  EXPECT_EQ(summary.added, 2);
}

TEST(Tokenizer, OneTextFromManyThreads) {
  if (!has_bundled()) GTEST_SKIP() << "no bundled model";
  const Tokenizer tokenizer = bundled();
  std::string text;
  for (int i = 0; i < 200; ++i) text += "Once upon a time, number " + std::to_string(i) + " said: \"It's 日本!\"\n";
  const std::vector<int32_t> expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> same(4, 0);
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back(
        [&, t] { same[t] = tokenizer.encode(text) == expected && tokenizer.decode(expected) == text; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, std::vector<int>(4, 1));
}

// The table of Llama 3's pre-tokenizer, as LFM2 uses it.
TEST(PreTokenizer, Llama3Splits) {
  const Json tokenizer = fixture("llama3-ignore-merges");
  const PreTokenizer pre(tokenizer["pre_tokenizer"], "test");
  const std::vector<std::pair<std::string, std::vector<std::string>>> table = {
      {"I'll pay $12345.67 today!!", {"I", "'ll", " pay", " $", "123", "45", ".", "67", " today", "!!"}},
      {"  two  spaces\n\n\nx", {" ", " two", " ", " spaces", "\n\n\n", "x"}},
      {"a\tb\r\n c", {"a", "\tb", "\r\n", " c"}},
      {"DON'T stop", {"DON", "'T", " stop"}},
      {"x=1;\n\ty+=20000", {"x", "=", "1", ";\n", "\ty", "+=", "200", "00"}},
      {"end   ", {"end", "   "}},
  };
  for (const auto& [text, expected] : table) {
    Words words;
    pre.split(text, 1, words);
    EXPECT_EQ(std::vector<std::string>(words.list.begin(), words.list.end()), expected) << text;
  }
}

// A quadratic merge would need minutes for each of these; the bound leaves room for sanitizers and busy machines.
// Quadratic merging would take hours here, recursion the stack: that the test ends is what it tests.
TEST(Tokenizer, OneLongWordEndsInTime) {
  std::vector<Tokenizer> tokenizers = {Tokenizer::bytes(),
                                       small("gpt2"),
                                       small("llama3-ignore-merges"),
                                       small("sentencepiece"),
                                       small("metaspace-always-True"),
                                       small("NFC")};
  for (const char* name : {"qwen2_5", "gpt-neox-20b"}) {
    const std::string path = shared(std::string("tokenizers/") + name + "/tokenizer.json");
    if (std::filesystem::exists(path)) tokenizers.push_back(Tokenizer::from_file(path));
  }
  const size_t size = size_t{1} << 17;
  const std::string marks = std::string("e") + [] {
    std::string out;
    for (int i = 0; i < 20000; ++i) out += i % 2 == 0 ? "\u0301" : "\u0316";
    return out;
  }();
  const std::vector<std::string> texts = {std::string(20000, 'A'), std::string(size, 'a'),       std::string(size, ' '),
                                          std::string(size, '\n'), std::string(size, ' ') + "x", marks};
  for (const Tokenizer& tokenizer : tokenizers) {
    for (const std::string& text : texts) {
      EXPECT_FALSE(tokenizer.encode(text).empty()) << tokenizer.summary().kind << " " << text.substr(0, 4);
    }
  }
}

// Strip at both ends of one fused text: what may be the last space is held until more text comes.
TEST(StreamDecoder, HoldsTrailingTextThatStripMayTake) {
  Json json = fixture("sentencepiece");
  json["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": "l", "start": 1, "stop": 2}]})");
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "strip");
  StreamDecoder stream(tokenizer);
  const int32_t l = *tokenizer.id_of("l");
  const int32_t o = *tokenizer.id_of("o");
  EXPECT_EQ(stream.push(l), "");
  EXPECT_EQ(stream.push(o), "o");
  EXPECT_EQ(stream.push(l), "");
  EXPECT_EQ(stream.push(l), "");
  EXPECT_EQ(stream.push(l), "l");
  EXPECT_EQ(stream.push(o), "llo");
  EXPECT_EQ(stream.push(l), "");
  EXPECT_EQ(stream.flush(), "");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{l, o, l, l, l, o, l}), "olllo");
}

// What the decoder holds of a text that is known does not come out with what follows it.
TEST(StreamDecoder, FollowsATextWithoutGivingItsEnd) {
  Json json = fixture("sentencepiece");
  json["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]})");
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "fallback");
  const int32_t l = *tokenizer.id_of("l"), o = *tokenizer.id_of("o");
  const int32_t line = *tokenizer.id_of("<0x0A>"), c3 = *tokenizer.id_of("<0xC3>"), a9 = *tokenizer.id_of("<0xA9>");
  StreamDecoder stream(tokenizer);
  stream.follow(std::vector<int32_t>{l, line});
  EXPECT_EQ(stream.push(o), "o");
  EXPECT_EQ(stream.flush(), "");
  stream.follow(std::vector<int32_t>{l, line});
  EXPECT_EQ(stream.push(line), "");
  EXPECT_EQ(stream.push(o), "\no");
  stream.follow(std::vector<int32_t>{line});
  EXPECT_EQ(stream.flush(), "");
  stream.follow(std::vector<int32_t>{l, c3});  // half a character belongs to whoever ends it
  EXPECT_EQ(stream.push(a9), "");
  EXPECT_EQ(stream.push(o), "\u00E9o");
}

// Every byte is a token, and the last one of a word is spelled with the suffix all the same.
TEST(Tokenizer, BytesTakeTheAffixesOfWords) {
  Json json = fixture("gpt2");
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const std::string symbol = to_byte_alphabet(std::string_view(&byte, 1));
    vocab[symbol] = b;
    vocab[symbol + "</w>"] = 256 + b;
  }
  json["model"]["vocab"] = vocab;
  json["model"]["merges"] = Json::array();
  json["model"]["end_of_word_suffix"] = "</w>";
  json["added_tokens"] = Json::array();
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "affixes");
  EXPECT_EQ(tokenizer.encode("ba a"), (std::vector<int32_t>{'b', 256 + 'a', ' ', 256 + 'a'}));
}

// Added tokens that take the space around them, in nothing but space: each looks no further than the one before.
TEST(Tokenizer, StrippingTokensInALongRunOfSpaceEndInTime) {
  Json json = fixture("gpt2");
  json["added_tokens"] = Json::parse(R"([{"id": 5000, "content": " ", "lstrip": true, "rstrip": true}])");
  const size_t size = size_t{1} << 18;
  EXPECT_EQ(Tokenizer::from_json(json.dump(), "t").encode(std::string(size, ' ')).size(), size);
}

TEST(Tokenizer, ALargeFileLoads) {
  std::string vocab = "\"a\": 0";
  std::string merges;
  std::string token = "a";
  constexpr int kTokens = 300;
  for (int i = 1; i < kTokens; ++i) {
    merges += (i > 1 ? ",\n" : "") + std::string("\"") + token + " a\"";
    token += "a";
    vocab += ",\n\"" + token + "\": " + std::to_string(i);
  }
  for (int i = kTokens; vocab.size() < (size_t{10} << 20); ++i) {
    vocab += ",\n\"token-" + std::to_string(i) + "\": " + std::to_string(i);
  }
  const std::string json = "{\"model\": {\"vocab\": {" + vocab + "}, \"merges\": [" + merges + "]}}";
  const Tokenizer tokenizer = Tokenizer::from_json(json, "t");
  EXPECT_EQ(tokenizer.encode(std::string(kTokens - 1, 'a')).size(),
            149u);  // 148 pairs and, at the end, one of three
}

TEST(Tokenizer, EmptyTextAndTextOfOneSpecial) {
  EXPECT_TRUE(small("gpt2").encode("").empty());
  EXPECT_EQ(small("sentencepiece").encode("").size(), 1u);
  EXPECT_TRUE(small("sentencepiece").encode("", false).empty());
  EXPECT_EQ(small("gpt2").decode({}), "");
}

}  // namespace
}  // namespace carousel::text
