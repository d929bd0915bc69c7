// SPDX-License-Identifier: Apache-2.0
// Every file of tests/fixtures/malformed gives its one message (tools/make_malformed.py), opened by the loader that its
// sub-folder names.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/csv.h"
#include "carousel/formats/gguf.h"
#include "carousel/formats/safetensors.h"
#include "carousel/formats/torch_zip.h"

namespace carousel::formats {
namespace {

void check_folder(const std::string& loader, const std::function<void(const std::string&)>& open) {
  const std::string folder = std::string(CAROUSEL_SOURCE_DIR) + "/tests/fixtures/malformed/" + loader + "/";
  const Json expected = read_json_file(folder + "expected.json");
  ASSERT_GT(expected.size(), 10u);
  for (const auto& [name, message] : expected.items()) {
    try {
      open(folder + name);
      ADD_FAILURE() << loader << "/" << name << " was accepted, expected: " << message;
    } catch (const Error& error) {
      const std::string got = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << name;
      EXPECT_NE(got.find(message.get<std::string>()), got.npos) << name << ": " << got << "\nexpected: " << message;
      EXPECT_EQ(got.rfind(folder + name, 0), 0u) << "the message names the file first: " << got;
      EXPECT_EQ(got.find('\n'), got.npos) << got;
      EXPECT_LT(got.size(), folder.size() + 300) << got;
    }
  }
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const std::string name = file.path().filename().string();
    EXPECT_TRUE(name == "expected.json" || expected.contains(name)) << name << " has no expected message";
  }
}

TEST(Malformed, Safetensors) {
  check_folder("safetensors", [](const std::string& path) { SafetensorsFile::open(path); });
}

TEST(Malformed, Index) {
  check_folder("index", [](const std::string& path) { Checkpoint::open(path); });
}

TEST(Malformed, TorchZip) {
  check_folder("torch_zip", [](const std::string& path) { open_torch_zip(path); });
}

TEST(Malformed, Gguf) {
  check_folder("gguf", [](const std::string& path) { GgufFile::open(path); });
}

TEST(Malformed, Csv) {
  check_folder("csv", [](const std::string& path) {
    const CsvTable table = CsvTable::open(path);
    for (int64_t row = 0; row < table.rows(); ++row) {
      for (int64_t column = 0; column < table.columns(); ++column) table.number(row, column);
    }
  });
}

TEST(Malformed, JsonText) {
  check_folder("json", [](const std::string& path) { read_json_file(path); });
}

}  // namespace
}  // namespace carousel::formats
