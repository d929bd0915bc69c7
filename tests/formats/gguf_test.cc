// SPDX-License-Identifier: Apache-2.0
// GGUF files: what the writer writes the reader reads; metadata, alignment, split models.
#include "carousel/formats/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "carousel/core/error.h"
#include "carousel/formats/checkpoint.h"
#include "tests/cli/run_command.h"

namespace carousel::formats {
namespace {

const GgmlType& type(const char* name) { return *find_ggml_type(std::string(name)); }

std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

const GgufKeys kKeys = {{"general.architecture", std::string("test")},
                        {"a.u32", uint32_t{4000000000}},
                        {"a.i32", int32_t{-7}},
                        {"a.u64", uint64_t{1} << 63},
                        {"a.f32", 1e-6F},
                        {"a.f64", 0.1},
                        {"a.flag", true},
                        {"a.text", std::string("tab\t and \xE2\x96\x81")},
                        {"a.ints", std::vector<int32_t>{2, 0, -3}},
                        {"a.floats", std::vector<float>{0.5F, -2}},
                        {"a.texts", std::vector<std::string>{"", "b c", "d"}},
                        {"a.none", std::vector<std::string>{}}};

TEST(Gguf, KeysComeBackWithTheirValues) {
  const Scratch scratch;
  GgufWriter(scratch / "k.gguf", kKeys, {}).finish();
  const GgufFile file = GgufFile::open(scratch / "k.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_TRUE(file.entries().empty());
  const GgufMetadata& metadata = file.metadata();
  const Json& values = metadata.values;
  EXPECT_EQ(values["a.u32"], 4000000000);
  EXPECT_EQ(values["a.i32"], -7);
  EXPECT_EQ(values["a.u64"].get<uint64_t>(), uint64_t{1} << 63);
  EXPECT_EQ(values["a.f32"], 1e-6) << "the shortest decimal, not the float widened";
  EXPECT_EQ(values["a.f64"], 0.1);
  EXPECT_EQ(values["a.flag"], true);
  EXPECT_EQ(values["a.text"], "tab\t and \xE2\x96\x81");
  EXPECT_EQ(values["a.ints"], Json({2, 0, -3}));
  EXPECT_EQ(values["a.floats"], Json({0.5, -2}));
  EXPECT_FALSE(values.contains("a.texts"));
  EXPECT_EQ(metadata.array("a.texts")->strings(), (std::vector<std::string_view>{"", "b c", "d"}));
  EXPECT_EQ(metadata.array("a.none")->size(), 0u);
  EXPECT_EQ(metadata.array("a.ints")->numbers(), (std::vector<float>{2, 0, -3}));
  EXPECT_EQ(metadata.array("a.u32"), nullptr);
  EXPECT_EQ(error_of([&] { metadata.array("a.texts")->integers(); }),
            scratch / "k.gguf" + std::string(": \"a.texts\" is an array of string, expected integers"));
  EXPECT_NE(error_of([&] { metadata.array("a.floats")->strings(); }).find("array of f32, expected strings"),
            std::string::npos);
}

TEST(Gguf, TensorsLieAlignedAndComeBackBitForBit) {
  const Scratch scratch;
  std::vector<uint8_t> odd(34 * 3);
  for (size_t i = 0; i < odd.size(); ++i) odd[i] = static_cast<uint8_t>(i * 7);
  const float pair[] = {1.5F, NAN};
  GgufWriter writer(scratch / "t.gguf", kKeys,
                    {{"blocks", &type("Q8_0"), Shape{3, 32}},
                     {"pair", &type("F32"), Shape{2}},
                     {"cube", &type("BF16"), Shape{2, 3, 4}}});
  writer.write("blocks", odd.data(), 30);
  const std::vector<uint8_t> cube(48, 9);
  writer.write("cube", cube.data(), cube.size());
  writer.write("blocks", odd.data() + 30, odd.size() - 30);
  EXPECT_NE(error_of([&] { writer.write("blocks", odd.data(), 1); }).find("beyond its 102 bytes"), std::string::npos);
  EXPECT_NE(error_of([&] { writer.finish(); }).find("\"pair\" has 8 bytes, 0 were written"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(scratch / "t.gguf")) << "not there before it is complete";
  writer.write("pair", pair, sizeof pair);
  writer.finish();
  const GgufFile file = GgufFile::open(scratch / "t.gguf");
  ASSERT_EQ(file.entries().size(), 3u);
  const TensorEntry& blocks = file.entries()[0];
  EXPECT_EQ(blocks.type_name(), "Q8_0");
  EXPECT_TRUE(blocks.shape == (Shape{3, 32}));
  EXPECT_EQ(std::memcmp(blocks.bytes, odd.data(), odd.size()), 0);
  EXPECT_EQ(blocks.load().dtype(), DType::kF32);
  EXPECT_EQ(file.entries()[1].first_not_finite(), 1);
  EXPECT_EQ(file.entries()[2].dtype, DType::kBF16);
  EXPECT_TRUE(file.entries()[2].shape == (Shape{2, 3, 4}));
  for (const TensorEntry& entry : file.entries()) EXPECT_EQ(reinterpret_cast<uintptr_t>(entry.bytes) % 32, 0u);
}

TEST(Gguf, TheWriterRefuses) {
  const Scratch scratch;
  const auto write = [&](const GgufKeys& keys, const std::vector<GgufTensorSpec>& tensors) {
    return error_of([&] { GgufWriter(scratch / "x.gguf", keys, tensors); });
  };
  EXPECT_NE(write({{"k", true}, {"k", true}}, {}).find("key \"k\" is given twice"), std::string::npos);
  const GgufTensorSpec fine{"w", &type("Q4_0"), Shape{2, 32}};
  EXPECT_NE(write({}, {fine, fine}).find("tensor \"w\" is given twice"), std::string::npos);
  EXPECT_NE(write({}, {{"w", &type("Q4_0"), Shape{32, 2}}}).find("rows of whole blocks of 32 for Q4_0"),
            std::string::npos);
  EXPECT_NE(write({}, {{std::string(64, 'n'), &type("F32"), Shape{2}}}).find("64 bytes, expected 1 to 63"),
            std::string::npos);
  EXPECT_NE(write({}, {{"w", &type("F32"), Shape{1, 1, 1, 1, 1}}}).find("expected 1 to 4 dimensions"),
            std::string::npos);
  EXPECT_NE(write({{"k", std::string("caf\xE9")}}, {}).find("key \"k\" is not valid UTF-8"), std::string::npos);
  EXPECT_NE(write({{"list", std::vector<std::string>{"a", "\xE9"}}}, {}).find("key \"list\" is not valid UTF-8"),
            std::string::npos);
  EXPECT_NE(write({}, {{"w\xE9", &type("F32"), Shape{2}}}).find("is not valid UTF-8"), std::string::npos);
}

class SplitGguf : public testing::Test {
 protected:
  std::string part(int number, int count) const {
    return scratch_ / fmt::format("m-{:05}-of-{:05}.gguf", number, count);
  }
  void write(const std::string& path, int number, int count, const std::string& tensor, int all) const {
    const GgufKeys keys = {{"split.no", uint32_t(number)},
                           {"split.count", uint32_t(count)},
                           {"split.tensors.count", int32_t(all)},
                           {"part", std::string(tensor)}};
    GgufWriter writer(path, keys, {{tensor, &type("F32"), Shape{1}}});
    const auto value = static_cast<float>(number);
    writer.write(tensor, &value, 4);
    writer.finish();
  }
  std::string open(const std::string& path) const {
    return error_of([&] { Checkpoint::open(path); });
  }
  Scratch scratch_;
};

TEST_F(SplitGguf, AllPartsAreOneCheckpoint) {
  for (int i = 0; i < 3; ++i) write(part(i + 1, 3), i, 3, fmt::format("t{}", i), 3);
  const Checkpoint checkpoint = Checkpoint::open(part(1, 3));
  EXPECT_EQ(checkpoint.paths().size(), 3u);
  ASSERT_NE(checkpoint.find("t2"), nullptr);
  EXPECT_EQ(checkpoint.find("t2")->load().f32()[0], 2);
  EXPECT_EQ(checkpoint.gguf()->values["part"], "t0") << "the first part's keys count";
  EXPECT_EQ(Checkpoint::open(part(3, 3)).entries().size(), 3u) << "any part names the model";
}

TEST_F(SplitGguf, WhatIsWrongIsNamed) {
  for (int i = 0; i < 2; ++i) write(part(i + 1, 3), i, 3, fmt::format("t{}", i), 3);
  EXPECT_NE(open(part(1, 3)).find("m-00003-of-00003.gguf: part 3 of 3 is missing"), std::string::npos);
  write(part(3, 3), 1, 3, "t2", 3);
  EXPECT_NE(open(part(1, 3)).find("\"split.no\" is 1, expected 2"), std::string::npos);
  write(part(3, 3), 2, 4, "t2", 3);
  EXPECT_NE(open(part(1, 3)).find("\"split.count\" is not 3"), std::string::npos);
  write(part(3, 3), 2, 3, "t1", 3);
  EXPECT_NE(open(part(1, 3)).find("\"t1\" is also in"), std::string::npos);
  write(part(1, 3), 0, 3, "t0", 7);
  write(part(3, 3), 2, 3, "t2", 3);
  EXPECT_NE(open(part(1, 3)).find("\"split.tensors.count\" is 7, but the 3 parts hold 3 tensors"), std::string::npos);
  write(scratch_ / "whole.gguf", 0, 2, "t", 2);
  EXPECT_NE(open(scratch_ / "whole.gguf").find("expected a name that ends in -00001-of-00002.gguf"), std::string::npos);
}

TEST(Gguf, NamesOfParts) {
  const std::optional<ShardName> part = split_gguf_name("a/b-00002-of-00010.gguf");
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->stem, "a/b");
  EXPECT_EQ(part->part, 2);
  EXPECT_EQ(part->parts, 10);
  for (const char* name : {"b.gguf", "b-00003-of-00002.gguf", "b-00000-of-00002.gguf", "b-0000x-of-00002.gguf", ""}) {
    EXPECT_FALSE(split_gguf_name(name).has_value()) << name;
  }
}

}  // namespace
}  // namespace carousel::formats
