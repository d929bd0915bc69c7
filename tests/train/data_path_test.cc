// SPDX-License-Identifier: Apache-2.0
#include "carousel/train/data_path.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/train/written.h"

namespace carousel::train {
namespace {

std::vector<std::string> names(const std::string& path) {
  std::vector<std::string> out;
  for (const DataFile& file : list_files(path)) out.push_back(file.path.substr(file.path.rfind('/') + 1));
  return out;
}

using Names = std::vector<std::string>;

TEST(DataPath, WeightIsBehindTheLastColon) {
  const Scratch scratch;
  write(scratch / "a.txt", "x");
  write(scratch / "b.txt:2", "x");
  EXPECT_EQ(parse_data_path(scratch / "a.txt").weight, 0);
  EXPECT_EQ(parse_data_path((scratch / "a.txt") + ":0.25").weight, 0.25);
  EXPECT_EQ(parse_data_path((scratch / "a.txt") + ":0.25").path, scratch / "a.txt");
  EXPECT_EQ(parse_data_path((scratch / "*.txt") + ":3").weight, 3);
  EXPECT_EQ(parse_data_path(scratch / "b.txt:2").path, scratch / "b.txt:2") << "a file's own name";
  for (const char* wrong : {":0", ":-1", ":nan", ":inf", ":", ":much"}) {
    EXPECT_NE(error_of([&] { parse_data_path((scratch / "a.txt") + wrong); }).find("expected a number above 0"),
              std::string::npos)
        << wrong;
  }
}

TEST(DataPath, FoldersAndPatternsAreSorted) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "in/deep");
  for (const char* name : {"in/b.txt", "in/a.jsonl", "in/deep/c.bin", "in/README", "in/.hidden.txt", "in/x.py"}) {
    write(scratch / name, "x");
  }
  EXPECT_EQ(names(scratch / "in"), (Names{"a.jsonl", "b.txt", "c.bin"}));
  EXPECT_EQ(names(scratch / "in/?.*"), (Names{"a.jsonl", "b.txt", "x.py"})) << "what is named is taken";
  EXPECT_EQ(names(scratch / "in/README"), (Names{"README"}));
  EXPECT_EQ(list_files(scratch / "in/README").front().kind, FileKind::kText);
  EXPECT_EQ(list_files(scratch / "in/deep").front().kind, FileKind::kBin);
}

TEST(DataPath, WhatIsNotReadIsRefused) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "empty");
  write(scratch / "a.parquet", "x");
  write(scratch / "a.json", "x");
  write(scratch / "a.txt.gz", "x");
  const auto refusal = [](const std::string& path) { return error_of([&] { list_files(path); }); };
  EXPECT_NE(refusal(scratch / "a.parquet").find("a.jsonl', orient='records', lines=True)"), std::string::npos);
  EXPECT_NE(refusal(scratch.path()).find(".parquet"), std::string::npos) << "in a folder too";
  EXPECT_NE(refusal(scratch / "a.json").find("expected .jsonl"), std::string::npos);
  EXPECT_NE(refusal(scratch / "a.txt.gz").find("unpacked"), std::string::npos);
  EXPECT_NE(refusal(scratch / "empty").find("no document"), std::string::npos);
  EXPECT_NE(refusal(scratch / "none*").find("no file matches"), std::string::npos);
  EXPECT_NE(refusal(scratch / "none").find("cannot open"), std::string::npos);
}

}  // namespace
}  // namespace carousel::train
