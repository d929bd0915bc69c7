// SPDX-License-Identifier: Apache-2.0
#include "carousel/train/token_cache.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/model/load.h"
#include "carousel/train/source.h"
#include "carousel/train/vocabulary.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

const CacheKey kKey{1, 2, 3, "bytes"};

TEST(TokenCache, KeepsDocumentsAndWhatIsScored) {
  const Scratch scratch;
  for (const int64_t vocabulary : {65536, 65537}) {
    TokenCacheWriter writer(scratch / "c", kKey, vocabulary);
    writer.add({{1, 2, 3}, {}, false});
    writer.add({{9}, {}, false});  // no pair
    writer.add({{3, 4}, {}, true});
    writer.add({{5, 65535}, {0, 1}, false});
    writer.add({{}, {}, false});
    writer.add({{7, 8}, {0, 1}, false});
    EXPECT_FALSE(TokenCache::exists(scratch / "c"));
    writer.finish();
    const TokenCache cache = TokenCache::open(scratch / "c", kKey);
    ASSERT_EQ(cache.documents(), 3);
    EXPECT_EQ(cache.pairs(), 2 + 3 + 1);
    EXPECT_EQ(cache.first_id(1), 2) << "the id that ends one document and begins the next is shared";
    EXPECT_EQ(cache.first_pair(1), 2);
    EXPECT_EQ(cache.first_id(2), 6);
    const std::vector<int32_t> ids{1, 2, 3, 4, 5, 65535, 7, 8};
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(cache.id(static_cast<int64_t>(i)), ids[i]);
    for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(cache.scored(i), i != 4) << i;
    const std::vector<int64_t> documents{0, 0, 1, 1, 1, 2};
    for (size_t i = 0; i < documents.size(); ++i) {
      EXPECT_EQ(cache.document_of(static_cast<int64_t>(i)), documents[i]);
    }
    cache.release();
    EXPECT_EQ(cache.id(3), 4);
    std::filesystem::remove(scratch / "c.ids");
  }
}

TEST(TokenCache, AWriterThatEndsEarlyLeavesNothing) {
  const Scratch scratch;
  {
    TokenCacheWriter writer(scratch / "c", kKey, 256);
    writer.add({{1, 2, 3}, {0, 1, 0}, false});
  }
  EXPECT_TRUE(names_in(scratch.path()).empty());
}

TEST(TokenCache, AnotherTokenizerIsNamed) {
  const Scratch scratch;
  TokenCacheWriter(scratch / "c", kKey, 256).finish();
  EXPECT_EQ(error_of([&] {
              TokenCache::open(scratch / "c", {1, 7, 3, "BPE of 300 ids"});
            }),
            (scratch / "c.ids") +
                ": ids of the tokenizer bytes, expected those of BPE of 300 ids: remove it, or write elsewhere");
  EXPECT_NE(error_of([&] {
              TokenCache::open(scratch / "c", {1, 2, 4, "bytes"});
            }).find("another file"),
            std::string::npos);
}

TEST(TokenCache, DamageIsSeen) {
  const Scratch scratch;
  TokenCacheWriter writer(scratch / "c", kKey, 256);
  writer.add({{1, 2, 3}, {0, 1, 0}, false});
  writer.finish();
  const std::string table = read_text_file(scratch / "c.documents", 1000);
  for (size_t i = 0; i < table.size(); i += 8) {
    std::string other = table;
    other[i + 6] = '\x7f';
    write(scratch / "c.documents", other);
    if (i == table.size() - 16) continue;  // where the ids after the last document begin is asked by nobody
    EXPECT_NE(error_of([&] { TokenCache::open(scratch / "c", kKey); }).find("c.documents"), std::string::npos) << i;
  }
  write(scratch / "c.documents", table);
  for (const char* name : {"c.scored", "c.documents", "c.ids"}) {
    std::filesystem::resize_file(scratch / name, std::filesystem::file_size(scratch / name) - 1);
    EXPECT_NE(error_of([&] { TokenCache::open(scratch / "c", kKey); }).find(name), std::string::npos);
  }
  write(scratch / "c.ids", "short");
  EXPECT_FALSE(TokenCache::exists(scratch / "c"));
}

TEST(TokenCache, AFileIsReadOnceAndByItsContents) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", "one<|endoftext|>two");
  std::vector<std::string> read;
  SourceOptions options;
  options.cache_folder = scratch / "out/cache";
  options.reading = [&](const std::string& which) { read.push_back(which); };
  const Vocabulary bytes = byte_vocabulary();
  const int64_t pairs = Source(path, options, bytes).pairs();
  EXPECT_EQ(Source(path, options, bytes).pairs(), pairs);
  std::filesystem::copy_file(path, scratch / "copy.txt");
  EXPECT_EQ(Source(scratch / "copy.txt", options, bytes).pairs(), pairs);
  EXPECT_EQ(read.size(), 1u);
  options.read.separator = "w";
  EXPECT_NE(Source(path, options, bytes).pairs(), pairs);
  write(path, "one<|endoftext|>twos");
  EXPECT_NE(Source(path, options, bytes).pairs(), pairs);
  EXPECT_EQ(read.size(), 3u);
  // The same file for another tokenizer, in the same folder of results.
  Vocabulary other = byte_vocabulary();
  other.hash = 77;
  other.name = "BPE of 300 ids";
  const std::string error = error_of([&] { Source(path, options, other); });
  EXPECT_NE(error.find("ids of the tokenizer bytes, expected those of BPE of 300 ids"), std::string::npos) << error;
}

// Vocabularies of bytes and of 4096 ids: that their sizes differ makes the caches no less those of two tokenizers.
TEST(TokenCache, OfATokenizerWithAnotherNumberOfIdsIsRefused) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", "Once upon a time<|endoftext|>there was a cat");
  const std::string folder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
  model::Model model;
  model.config = model::read_model_config(model::resolve(folder), nullptr);
  model.tokenizer = model::open_tokenizer(model::resolve(folder), nullptr);
  const Vocabulary stories = vocabulary_of(folder, model);
  SourceOptions options;
  options.cache_folder = scratch / "cache";
  Source(path, options, byte_vocabulary());
  const size_t files = names_in(scratch / "cache").size();
  const std::string error = error_of([&] { Source(path, options, stories); });
  EXPECT_NE(error.find("ids of the tokenizer bytes, expected those of " + stories.name), std::string::npos) << error;
  EXPECT_EQ(names_in(scratch / "cache").size(), files);
}

}  // namespace
}  // namespace carousel::train
