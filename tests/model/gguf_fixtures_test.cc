// SPDX-License-Identifier: Apache-2.0
// Files that the public gguf package wrote (tools/make_gguf_fixtures.py): their blocks decode as there, their models
// load, tokenize and compute, and survive the way to a folder.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "carousel/formats/checkpoint.h"
#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/cost.h"
#include "carousel/ops/tokens/embedding.h"
#include "tests/cli/tiny_model.h"
#include "tests/ops/machine.h"

namespace carousel::model {
namespace {

const std::string kFolder = CAROUSEL_SOURCE_DIR "/tests/fixtures/gguf/";

TEST(GgufFixtures, BlocksDecodeAsThePackageDoes) {
  const auto file = formats::SafetensorsFile::open(kFolder + "blocks.safetensors");
  int types = 0;
  for (const formats::TensorEntry& blocks : file.entries()) {
    if (!blocks.name.ends_with(".blocks")) continue;
    ++types;
    const std::string name = blocks.name.substr(0, blocks.name.find('.'));
    const formats::GgmlType& type = *formats::find_ggml_type(name);
    ASSERT_EQ(blocks.shape[1], static_cast<int64_t>(type.block_bytes)) << name;
    const Tensor want = file.find(name + ".values")->load();
    std::vector<float> got(static_cast<size_t>(want.count()));
    formats::decode_ggml(type, blocks.bytes, want.count(), got.data());
    for (size_t i = 0; i < got.size(); ++i) {
      // The package sums a product and an offset in another order here and there.
      EXPECT_NEAR(got[i], want.f32()[i], 2e-6) << name << " value " << i;
    }
  }
  EXPECT_EQ(types, 12);
}

// Rows that repeat the package's blocks, more of them than a panel has, and look-up rows: what was packed comes back
// bit for bit, from 1 thread or 3, in no more bytes than the file's.
TEST(GgufFixtures, BlocksKeepTheirValuesWhenTheyAreHeld) {
  constexpr int64_t kRows = 64;
  const auto file = formats::SafetensorsFile::open(kFolder + "blocks.safetensors");
  ThreadPool one(1), three(3);
  int types = 0;
  for (const formats::TensorEntry& blocks : file.entries()) {
    if (!blocks.name.ends_with(".blocks")) continue;
    ++types;
    const formats::GgmlType& type = *formats::find_ggml_type(blocks.name.substr(0, blocks.name.find('.')));
    const int64_t cols = 4 * type.block;
    const size_t block = type.block_bytes, row = 4 * block;
    std::vector<std::byte> stored(kRows * row);
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t b = 0; b < 4; ++b) {  // every row has the four blocks in another order than the row before
        std::memcpy(stored.data() + r * row + b * block, blocks.bytes + (r * 3 + b) % 4 * block, block);
      }
    }
    std::vector<float> want(static_cast<size_t>(kRows * cols)), got(want.size());
    formats::decode_ggml(type, stored.data(), kRows * cols, want.data());
    for (const Weight::Layout layout : {Weight::Layout::kPanels, Weight::Layout::kRows}) {
      for (ThreadPool* pool : {&one, &three}) {
        Weight weight(kRows, cols, *type.blocks, layout);
        weight.write_rows(Stream{&Memory::host(), cpu::best_isa(), pool}, 0, kRows, stored.data());
        std::fill(got.begin(), got.end(), 0.0F);
        weight.read_rows(0, kRows, got.data());
        EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << type.name;
        EXPECT_LE(weight.size_bytes(), stored.size()) << type.name;
      }
    }
  }
  EXPECT_EQ(types, 12);
}

// A table of tokens in blocks, Q6_K among them: a row that is looked up has the package's values bit for bit, from rows
// as they are stored and from panels.
TEST(GgufFixtures, LookedUpRowsOfBlocksKeepTheirValues) {
  constexpr int64_t kTokens = 40;
  const auto file = formats::SafetensorsFile::open(kFolder + "blocks.safetensors");
  bool seen_q6k = false;
  for (const formats::TensorEntry& blocks : file.entries()) {
    if (!blocks.name.ends_with(".blocks")) continue;
    const formats::GgmlType& type = *formats::find_ggml_type(blocks.name.substr(0, blocks.name.find('.')));
    seen_q6k |= type.blocks == DType::kQ6K;
    std::vector<std::byte> stored(kTokens * type.block_bytes);
    for (size_t token = 0; token < kTokens; ++token) {
      std::memcpy(stored.data() + token * type.block_bytes, blocks.bytes + token * 3 % 4 * type.block_bytes,
                  type.block_bytes);
    }
    std::vector<float> want(static_cast<size_t>(kTokens * type.block));
    formats::decode_ggml(type, stored.data(), kTokens * type.block, want.data());
    for (const Isa isa : tested_isas()) {
      for (const Weight::Layout layout : {Weight::Layout::kPanels, Weight::Layout::kRows}) {
        Machine machine(isa, 2);
        Weight table(kTokens, type.block, *type.blocks, layout);
        table.write_rows(machine.stream, 0, kTokens, stored.data());
        const std::vector<int32_t> ids = {0, 39, 31, 32, 5, 5};
        const Tensor x = ops::embedding(machine.ctx, ops::token_ids(machine.ctx, ids, kTokens), table);
        for (size_t n = 0; n < ids.size(); ++n) {
          EXPECT_EQ(std::memcmp(x.f32() + static_cast<int64_t>(n) * type.block, want.data() + ids[n] * type.block,
                                static_cast<size_t>(type.block) * sizeof(float)),
                    0)
              << type.name << " token " << ids[n];
        }
      }
    }
  }
  EXPECT_TRUE(seen_q6k);
}

const WeightTypes kWide{DType::kF32, DType::kF32, DType::kF32, DType::kF32};

double distance(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

class GgufFile : public testing::TestWithParam<const char*> {
 protected:
  GgufFile() : expected_(read_json_file(kFolder + "expected.json")[GetParam()]), path_(kFolder + GetParam()) {}
  Json expected_;
  std::string path_;
};

TEST_P(GgufFile, TensorsHoldThePackagesValues) {
  const auto checkpoint = formats::Checkpoint::open(path_);
  EXPECT_EQ(checkpoint.entries().size(), expected_["tensors"].size());
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    std::vector<float> values(static_cast<size_t>(entry->shape.count()));
    entry->to_f32(entry->bytes, entry->shape.count(), values.data());
    double sum = 0, squares = 0;
    for (const float value : values) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    ASSERT_TRUE(expected_["tensors"].contains(entry->name)) << entry->name;
    const Json& want = expected_["tensors"][entry->name];
    EXPECT_NEAR(sum, want[0].get<double>(), 1e-5 * static_cast<double>(values.size())) << entry->name;
    EXPECT_NEAR(squares, want[1].get<double>(), 1e-5 * want[1].get<double>()) << entry->name;
  }
}

TEST_P(GgufFile, TokenizesAndComputes) {
  cli::Library library(path_);
  EXPECT_TRUE(library.model.warnings.empty()) << library.model.warnings.front();
  for (const auto& [text, ids] : expected_["texts"].items()) {
    EXPECT_EQ(library.model.text().encode(text), ids.get<std::vector<int32_t>>()) << text;
  }
  EXPECT_EQ(library.model.end_tokens, std::vector<int32_t>{2});
  if (!expected_.contains("ids")) return;
  const auto ids = expected_["ids"].get<std::vector<int32_t>>();
  const auto want = expected_["logits"].get<std::vector<double>>();
  cli::Library wide(path_, kWide);
  EXPECT_LT(distance(wide.step(ids).back(), want), 2e-5);
  const double held = distance(library.step(ids).back(), want);
  EXPECT_LT(held, 2e-2) << "matrices in q8 and q4, products in integers";
  EXPECT_GT(held, 1e-5) << "blocks are not held in f32 unless asked";
}

TEST_P(GgufFile, SurvivesTheWayToAFolder) {
  const Scratch scratch;
  const std::string folder = scratch / "folder", again = scratch / "again.gguf";
  cli::Ran ran = cli::run_carousel("convert " + path_ + " --out " + folder);
  ASSERT_EQ(ran.status, 0) << ran.err;
  ran = cli::run_carousel("convert " + path_ + " --out " + again);
  ASSERT_EQ(ran.status, 0) << ran.err;
  const std::vector<int32_t> tokens = {5, 9, 2, 17, 3};
  cli::Library original(path_), rewritten(again), wide(path_, kWide), in_folder(folder, kWide);
  EXPECT_EQ(original.step(tokens), rewritten.step(tokens));
  EXPECT_EQ(wide.step(tokens), in_folder.step(tokens));
  for (const auto& [text, ids] : expected_["texts"].items()) {
    EXPECT_EQ(in_folder.model.text().encode(text), ids.get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(rewritten.model.text().encode(text), ids.get<std::vector<int32_t>>()) << text;
  }
}

// Blocks of every kind in q4 where that is asked for: what is decoded is encoded anew, no worse than its widened
// values.
TEST_P(GgufFile, IsHeldInQ4WhenAsked) {
  const std::vector<int32_t> tokens = {5, 9, 2, 17, 3};
  WeightTypes q4;
  q4.body = DType::kQ4;
  cli::Library narrow(path_, q4), own(path_), wide(path_, kWide);
  const auto far = [&](cli::Library& library) {
    const std::vector<float> got = library.step(tokens).back(), exact = wide.step(tokens).back();
    return distance(got, std::vector<double>(exact.begin(), exact.end()));
  };
  const double lost = far(narrow);
  EXPECT_LT(lost, 0.5);
  EXPECT_GT(lost, 0) << "q4 is what was asked for";
  const ModelFiles files = open_model_files(path_);
  WeightTypes q8;
  q8.body = DType::kQ8;
  EXPECT_LT(held_bytes(files, q4), held_bytes(files, q8));
}

INSTANTIATE_TEST_SUITE_P(Package, GgufFile,
                         testing::Values("llama.gguf", "split-00001-of-00003.gguf", "lfm2.gguf", "lfm2moe.gguf",
                                         "xlstm.gguf"),
                         [](const auto& param) {
                           const std::string name = param.param;
                           return name.substr(0, name.find_first_of("-."));
                         });

}  // namespace
}  // namespace carousel::model
