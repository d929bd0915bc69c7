// SPDX-License-Identifier: Apache-2.0
#include "carousel/train/features.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "tests/train/written.h"

namespace carousel::train {
namespace {

std::vector<float> count_to(size_t n) {
  std::vector<float> out(n);
  std::iota(out.begin(), out.end(), 0.0f);
  return out;
}

/// 5 sequences of 7 rows: 2 inputs, 1 output, times.
FeatureOptions five(const Scratch& scratch) {
  FeatureOptions options;
  options.files = {{write(scratch / "x.npy", npy<float>("<f4", "5, 7, 2", count_to(70))),
                    write(scratch / "y.npy", npy<float>("<f4", "5, 7, 1", count_to(35))),
                    write(scratch / "t.npy", npy<float>("<f4", "5, 7", count_to(35)))}};
  options.seq = 3;
  return options;
}

TEST(Features, SequencesAreCutIntoRows) {
  const Scratch scratch;
  for (const Order order : {Order::kShuffled, Order::kSequential}) {
    FeatureOptions options = five(scratch);
    options.order.order = order;
    const FeatureData data(options, 2, 1);
    EXPECT_EQ(data.sequences(), 5);
    ASSERT_EQ(data.rows(), 15);
    std::set<float> seen;
    for (int64_t place = 0; place < data.rows(); ++place) {
      const FeatureRow row = data.row(0, place);
      EXPECT_FALSE(row.continues || row.goes_on);
      for (int64_t t = 0; t < row.length; ++t) {
        EXPECT_EQ(row.x[2 * t], 2 * row.target[t]);
        EXPECT_EQ(row.times[t], row.target[t]);
        seen.insert(row.target[t]);
      }
      EXPECT_EQ(static_cast<int64_t>(row.target[0]), 7 * row.sequence + row.first);
    }
    EXPECT_EQ(seen.size(), 35u);
  }
}

TEST(Features, CarriedStatesFollowTheirLanes) {
  const Scratch scratch;
  FeatureOptions options = five(scratch);
  options.order.carry_state = true;
  options.order.lanes = 2;
  for (const Order order : {Order::kShuffled, Order::kSequential}) {
    options.order.order = order;
    const FeatureData data(options, 2, 1);
    std::map<int64_t, FeatureRow> kept;
    int64_t continued = 0;
    for (int64_t place = 0; place < data.rows(); ++place) {
      const FeatureRow row = data.row(0, place);
      EXPECT_EQ(row.continues, kept.count(row.lane) != 0 && kept[row.lane].goes_on);
      if (row.continues) {
        EXPECT_EQ(kept[row.lane].sequence, row.sequence);
        EXPECT_EQ(kept[row.lane].first + 3, row.first);
        ++continued;
      }
      kept[row.lane] = row;
    }
    EXPECT_GE(continued, 8) << "10 cuts, 2 lanes that begin and may break one each";
  }
}

TEST(Features, TablesAreOneSequence) {
  const Scratch scratch;
  FeatureOptions options;
  options.files = {{write(scratch / "x.csv", "a,b\n1,2\n3,4\n"), write(scratch / "y.csv", "y\n5\n6\n"), ""}};
  const FeatureData data(options, 2, 1);
  const FeatureRow row = data.row(0, 0);
  EXPECT_EQ(row.length, 2);
  EXPECT_EQ(row.x[3], 4);
  EXPECT_EQ(row.target[1], 6);
  EXPECT_EQ(row.times, nullptr);
  EXPECT_EQ(data.describe(row), (scratch / "x.csv") + ": sequence 1, rows 1 to 2");
}

TEST(Features, ValidationTakesWholeSequences) {
  const Scratch scratch;
  FeatureOptions options = five(scratch);
  options.valid_fraction = 0.5;
  options.side = Side::kTrain;
  const int64_t train = FeatureData(options, 2, 1).sequences();
  options.side = Side::kValid;
  EXPECT_EQ(train + FeatureData(options, 2, 1).sequences(), 5);
  options.valid_fraction = 0;
  EXPECT_NE(error_of([&] { FeatureData(options, 2, 1); }).find("no sequence"), std::string::npos);
}

TEST(Features, ShapesMustFit) {
  const Scratch scratch;
  const FeatureOptions good = five(scratch);
  const auto refusal = [](const FeatureOptions& options, int64_t inputs) {
    return error_of([&] { FeatureData(options, inputs, 1); });
  };
  EXPECT_NE(refusal(good, 3).find("expected [T, 3] or [B, T, 3] (inputs"), std::string::npos);
  FeatureOptions options = good;
  options.files[0].target = write(scratch / "y2.npy", npy<float>("<f4", "5, 6, 1", count_to(30)));
  EXPECT_NE(refusal(options, 2).find("5 x 6 rows, expected 5 x 7"), std::string::npos);
  options = good;
  options.files[0].times = options.files[0].data;
  EXPECT_NE(refusal(options, 2).find("one time for each"), std::string::npos);
  options = good;
  options.files[0].times = write(scratch / "t.csv", "1\n-1\n");
  options.files[0].data = write(scratch / "x.csv", "1,2\n3,4\n");
  options.files[0].target = write(scratch / "y.csv", "1\n3\n");
  EXPECT_NE(refusal(options, 2).find("time 1 is -1, expected 0 or more"), std::string::npos);
  options.files[0].times = write(scratch / "t.npy", npy<float>("<f4", "2, 1, 2", count_to(4)));
  EXPECT_NE(refusal(options, 2).find("shape [2, 1, 2], expected one time for each of 1 x 2 rows"), std::string::npos);
  options.files[0].times = write(scratch / "t.csv", "1\n-1\n");
  write(scratch / "y.csv", "1\n\"\"\n");
  EXPECT_NE(refusal(options, 2).find("expected a finite number"), std::string::npos);
  options.files[0].target = "";
  EXPECT_NE(refusal(options, 2).find("--target"), std::string::npos);
}

// File for file: the first of the features has the first of the targets.
TEST(Features, PatternsAndFoldersNameFilesOfTheSameOrder) {
  const Scratch scratch;
  for (const std::string folder : {"/x", "/y"}) {
    std::filesystem::create_directory(scratch.path() + folder);
    for (const std::string name : {"/a", "/b"}) {
      const float value = name == "/a" ? 1 : 2;
      write(scratch.path() + folder + name + ".npy", npy<float>("<f4", "3, 1", {value, value, value}));
    }
  }
  write(scratch / "x/notes.txt", "no features");
  for (const char* ending : {"", "/*.npy"}) {
    FeatureOptions options;
    options.files = list_feature_files({scratch / "x" + std::string(ending), scratch / "y" + std::string(ending), ""});
    ASSERT_EQ(options.files.size(), 2u);
    const FeatureData data(options, 1, 1);
    EXPECT_EQ(data.sequences(), 2);
    for (int64_t place = 0; place < data.rows(); ++place) {
      EXPECT_EQ(data.row(0, place).x[0], data.row(0, place).target[0]);
    }
  }
  EXPECT_EQ(error_of([&] {
              list_feature_files({scratch / "x", scratch / "y/a.npy", ""});
            }),
            scratch / "y/a.npy" + std::string(": got 1 files, expected 2, one for each of ") + (scratch / "x"));
  EXPECT_NE(error_of([&] {
              list_feature_files({scratch / "x/*.txt", scratch / "y", ""});
            }).find("got no .csv or .npy"),
            std::string::npos);
}

}  // namespace
}  // namespace carousel::train
