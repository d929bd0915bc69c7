// SPDX-License-Identifier: Apache-2.0
// Rows: documents end to end, every pair once an epoch, any place at once, mixtures, lanes, the split for validation.
#include "carousel/train/data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "carousel/core/files.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

using Ids = std::vector<int32_t>;

DataOptions options_for(const Scratch& scratch, const std::vector<DataPath>& paths, int64_t seq) {
  DataOptions options;
  options.paths = paths;
  options.source.cache_folder = scratch / "cache";
  options.seq = seq;
  return options;
}

/// Documents of unlike lengths, each with a letter of its own.
std::string stories(int count, char first = 'a') {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += std::string(static_cast<size_t>(2 + i * 7 % 11), static_cast<char>(first + i % 26)) + "<|endoftext|>";
  }
  return text;
}

Row row_of(Data& data, int64_t epoch, int64_t place) {
  Row row;
  data.row(epoch, place, row);
  return row;
}

/// How often each pair comes in an epoch.
std::map<std::pair<int32_t, int32_t>, int64_t> pairs_of(Data& data, int64_t epoch) {
  std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
  for (int64_t place = 0; place < data.rows(); ++place) {
    const Row row = row_of(data, epoch, place);
    for (size_t i = 0; i < row.tokens.size(); ++i) ++pairs[{row.tokens[i], row.targets[i]}];
  }
  return pairs;
}

TEST(Data, DocumentsLieEndToEndInPieces) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", "abcd<|endoftext|>efghijklm<|endoftext|>n<|endoftext|>op");
  DataOptions options = options_for(scratch, {{path, 0}}, 5);
  options.order.order = Order::kSequential;
  Data data(options, byte_vocabulary());
  EXPECT_EQ(data.documents(), 3) << "a document of one id has no pair";
  EXPECT_EQ(data.pairs(), 3 + 8 + 1);
  ASSERT_EQ(data.rows(), 3);
  const Row first = row_of(data, 0, 0), second = row_of(data, 0, 1), third = row_of(data, 0, 2);
  EXPECT_EQ(first.tokens, (Ids{'a', 'b', 'c', 'e', 'f'}));
  EXPECT_EQ(first.targets, (Ids{'b', 'c', 'd', 'f', 'g'}));
  EXPECT_EQ(first.lengths, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(second.tokens, (Ids{'g', 'h', 'i', 'j', 'k'})) << "the rest begins with the last target";
  EXPECT_EQ(second.lengths, (std::vector<int64_t>{5}));
  EXPECT_EQ(third.tokens, (Ids{'l', 'o'})) << "the last row is shorter, not padded";
  EXPECT_EQ(third.targets, (Ids{'m', 'p'}));
  EXPECT_FALSE(second.continues);
  EXPECT_EQ(data.describe(std::vector<Row>{first}), path + ": documents 1 to 2");
  EXPECT_EQ(data.describe(std::vector<Row>{second, first}), path + ": document 2; " + path + ": documents 1 to 2");
}

TEST(Data, SequentialRowsOfAnArrayShareTheirBorders) {
  const Scratch scratch;
  std::vector<uint16_t> ids(1025);
  std::iota(ids.begin(), ids.end(), uint16_t{0});
  const std::string path = write(scratch / "ids.npy", npy<uint16_t>("<u2", "1025,", ids));
  DataOptions options = options_for(scratch, {{path, 0}}, 128);
  options.order.order = Order::kSequential;
  Data data(options, id_vocabulary(2000));
  ASSERT_EQ(data.rows(), 8);
  for (int64_t r = 0; r < 8; ++r) {
    const Row row = row_of(data, 3, r);
    ASSERT_EQ(row.lengths, (std::vector<int64_t>{128}));
    for (int64_t t = 0; t < 128; ++t) {
      ASSERT_EQ(row.tokens[static_cast<size_t>(t)], r * 128 + t);
      ASSERT_EQ(row.targets[static_cast<size_t>(t)], r * 128 + t + 1);
    }
  }
}

TEST(Data, EveryPairComesOnceAnEpoch) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "in");
  write(scratch / "in/a.txt", stories(40));
  write(scratch / "in/b.txt", stories(31, 'A'));
  const std::string other = write(scratch / "other.txt", stories(17, '0'));
  for (const Order order : {Order::kShuffled, Order::kSequential}) {
    for (const bool carry : {false, true}) {
      DataOptions options = options_for(scratch, {{scratch / "in", 0}, {other, 0}}, 13);
      options.order.order = order;
      options.order.carry_state = carry;
      options.order.lanes = 5;
      Data data(options, byte_vocabulary());
      const auto first = pairs_of(data, 0);
      EXPECT_EQ(pairs_of(data, 1), first);
      int64_t sum = 0;
      for (const auto& [pair, count] : first) sum += count;
      EXPECT_EQ(sum, data.pairs());
      EXPECT_EQ(data.documents(), 88);
    }
  }
}

TEST(Data, OrderIsAFunctionOfSeedEpochAndPlace) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", stories(300));
  DataOptions options = options_for(scratch, {{path, 0}}, 16);
  Data one(options, byte_vocabulary()), two(options, byte_vocabulary());
  options.order.seed = 1;
  Data seeded(options, byte_vocabulary());
  int64_t seed_moves = 0, epoch_moves = 0;
  for (int64_t place = one.rows() - 1; place >= 0; --place) {
    const Ids tokens = row_of(one, 2, place).tokens;
    EXPECT_EQ(row_of(two, 2, place).tokens, tokens);
    seed_moves += row_of(seeded, 2, place).tokens != tokens ? 1 : 0;
    epoch_moves += row_of(one, 3, place).tokens != tokens ? 1 : 0;
  }
  EXPECT_GT(seed_moves, one.rows() / 2);
  EXPECT_GT(epoch_moves, one.rows() / 2);
}

TEST(Data, WeightsAreSharesOfRows) {
  const Scratch scratch;
  const std::string a = write(scratch / "a.txt", stories(200, 'a')), b = write(scratch / "b.txt", stories(50, 'A'));
  DataOptions options = options_for(scratch, {{a, 1}, {b, 3}}, 8);
  Data data(options, byte_vocabulary());
  options.paths[0].weight = 0;
  EXPECT_EQ(Data(options, byte_vocabulary()).rows(), data.rows()) << "a source without a weight has 1";
  std::map<int64_t, int64_t> taken;  // documents of a over four epochs: a is gone through once
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    int64_t from_b = 0;
    for (int64_t place = 0; place < data.rows(); ++place) {
      const Row row = row_of(data, epoch, place);
      from_b += row.pieces.front().source;
      if (row.pieces.front().source == 0) ++taken[row.pieces.front().document];
    }
    EXPECT_NEAR(static_cast<double>(from_b) / static_cast<double>(data.rows()), 0.75, 0.01);
  }
  int64_t sum = 0;
  for (const auto& [document, count] : taken) sum += count;
  EXPECT_NEAR(static_cast<double>(sum), static_cast<double>(data.rows()), 4);
  EXPECT_GT(taken.size(), 100u) << "not the same part of a in every epoch";
}

// Replays what a trainer does with lanes: a row that continues must begin where its lane stopped.
TEST(Data, CarriedStatesFollowTheirLanes) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", stories(3) + std::string(500, 'x') + "<|endoftext|>" + stories(90));
  for (const Order order : {Order::kShuffled, Order::kSequential}) {
    DataOptions options = options_for(scratch, {{path, 0}}, 10);
    options.order.carry_state = true;
    options.order.order = order;
    options.order.lanes = 4;
    Data data(options, byte_vocabulary());
    EXPECT_EQ(data.lanes(), 4);
    std::map<int64_t, Row> kept;
    int64_t continued = 0;
    for (int64_t place = 0; place < data.rows(); ++place) {
      const Row row = row_of(data, 1, place);
      EXPECT_EQ(row.lane, place % 4);
      if (row.continues) {
        const Row& before = kept.at(row.lane);
        EXPECT_TRUE(before.goes_on);
        EXPECT_EQ(before.pieces.back().document, row.pieces.front().document);
        EXPECT_EQ(before.targets.back(), row.tokens.front());
        ++continued;
      } else if (kept.count(row.lane) != 0) {
        EXPECT_FALSE(kept.at(row.lane).goes_on);
      }
      kept[row.lane] = row;
    }
    EXPECT_GT(continued, data.rows() / 2);
    for (const auto& [lane, row] : kept) EXPECT_FALSE(row.goes_on) << "nothing follows in this epoch";
  }
}

TEST(Data, OneLaneInOrderIsTheWholeStream) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", std::string(95, 'x'));
  DataOptions options = options_for(scratch, {{path, 0}}, 10);
  options.order.carry_state = true;
  options.order.order = Order::kSequential;
  Data data(options, byte_vocabulary());
  for (int64_t place = 0; place < data.rows(); ++place) {
    const Row row = row_of(data, 0, place);
    EXPECT_EQ(row.continues, place > 0);
    EXPECT_EQ(row.goes_on, place + 1 < data.rows());
  }
}

TEST(Data, TargetsThatTheLossLeavesOutAreMinusOne) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.jsonl",
                                 "{\"text\": \"abc\"}\n{\"prompt\": \"de\", \"completion\": \"fg\"}\n"
                                 "{\"text\": \"hi\"}\n");
  DataOptions options = options_for(scratch, {{path, 0}}, 100);
  options.order.order = Order::kSequential;
  Data data(options, byte_vocabulary());
  const Row row = row_of(data, 0, 0);
  EXPECT_EQ(row.tokens, (Ids{'a', 'b', 'd', 'e', 'f', 'h'}));
  EXPECT_EQ(row.targets, (Ids{'b', 'c', -1, 'f', 'g', 'i'}));
  options.source.read.loss_on = LossOn::kAll;
  Data all(options, byte_vocabulary());
  EXPECT_EQ(row_of(all, 0, 0).targets, (Ids{'b', 'c', 'e', 'f', 'g', 'i'}));
}

TEST(Data, ValidationTakesWholeDocumentsByHash) {
  const Scratch scratch;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "document " + std::to_string(i) + "<|endoftext|>";
  const std::string path = write(scratch / "a.txt", text);
  DataOptions options = options_for(scratch, {{path, 0}}, 64);
  options.order.order = Order::kSequential;
  Data whole(options, byte_vocabulary());
  options.source.valid_fraction = 0.2;
  options.source.side = Side::kTrain;
  int reads = 0;
  options.source.reading = [&](const std::string&) { ++reads; };
  Data train(options, byte_vocabulary());
  options.source.side = Side::kValid;
  Data valid(options, byte_vocabulary());
  EXPECT_EQ(reads, 1) << "both sides are written at once";
  EXPECT_EQ(train.documents() + valid.documents(), 1000);
  EXPECT_NEAR(static_cast<double>(valid.documents()), 200, 40);
  EXPECT_EQ(train.pairs() + valid.pairs(), whole.pairs());
  options.source.valid_fraction = 1e-9;
  EXPECT_NE(error_of([&] { Data(options, byte_vocabulary()); }).find("no document to validate with"),
            std::string::npos);
}

TEST(Data, NoDocumentIsAnError) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", "\n<|endoftext|>x<|endoftext|>\n");
  EXPECT_EQ(error_of([&] {
              Data(options_for(scratch, {{path, 0}}, 8), byte_vocabulary());
            }),
            path + ": no document of two ids or more");
  EXPECT_NE(error_of([&] { Data(options_for(scratch, {}, 8), byte_vocabulary()); }).find("--data"), std::string::npos);
}

TEST(Data, TheTokenizerMayNotExceedTheModel) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", "abc");
  EXPECT_EQ(error_of([&] {
              Data(options_for(scratch, {{path, 0}}, 8), byte_vocabulary(98));
            }),
            path + ": the tokenizer makes the id 98, expected ids from 0 to 97 (the model's vocabulary)");
  EXPECT_EQ(names_in(scratch / "cache").size(), 0u) << "nothing is left";
}

}  // namespace
}  // namespace carousel::train
