// SPDX-License-Identifier: Apache-2.0
// Round trips, views and the writer's promises. Malformed files are in malformed_test.cc.
#include "carousel/formats/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/formats/checkpoint.h"
#include "tests/scratch.h"

namespace carousel::formats {
namespace {

namespace fs = std::filesystem;

size_t files_in(const Scratch& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder.path()), {}));
}

Tensor counting(const Shape& shape, DType dtype, float first = 0) {
  Tensor tensor(shape, DType::kF32);
  for (int64_t i = 0; i < tensor.count(); ++i) tensor.f32()[i] = first + static_cast<float>(i);
  if (dtype == DType::kF32) return tensor;
  Tensor narrowed(shape, dtype);
  narrow(tensor.f32(), dtype, narrowed.raw(), static_cast<size_t>(tensor.count()));
  return narrowed;
}

void expect_same(const Tensor& got, const Tensor& expected) {
  ASSERT_EQ(got.dtype(), expected.dtype());
  ASSERT_TRUE(got.shape() == expected.shape()) << got.shape().str();
  if (got.size_bytes() == 0) return;
  EXPECT_EQ(std::memcmp(got.raw(), expected.raw(), got.size_bytes()), 0);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string with_header(const std::string& header, const std::string& body) {
  const uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), sizeof length);
  return text + header + body;
}

TEST(Safetensors, RoundTripKeepsBytesShapesAndMetadata) {
  const Scratch folder;
  Tensor bytes({3}, DType::kU8);
  std::memcpy(bytes.raw(), "abc", 3);
  Tensor ids({2, 1}, DType::kI64);
  ids.i64()[1] = -5;
  const NamedTensors tensors = {{"u8", bytes},
                                {"bf16", counting({2, 3}, DType::kBF16)},
                                {"f32", counting({5}, DType::kF32)},
                                {"f16", counting({1, 1, 7}, DType::kF16)},
                                {"i64", ids},
                                {"empty", Tensor({0, 4}, DType::kF32)},
                                {"scalar", counting({}, DType::kF32, 9)}};
  write_safetensors(folder / "x.safetensors", tensors, {{"format", "pt"}, {"pos", "17"}});
  EXPECT_EQ(files_in(folder), 1u) << "no temporary file stays behind";
  const SafetensorsFile file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "pt"}, {"pos", "17"}}));
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const NamedTensor& named : tensors) {
    const TensorEntry* entry = file.find(named.name);
    ASSERT_NE(entry, nullptr) << named.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(entry->bytes) % dtype_size(entry->dtype), 0u) << named.name;
    expect_same(entry->view(), named.tensor);
    expect_same(entry->load(), named.tensor);
    entry->release();
    expect_same(entry->view(), named.tensor);
  }
  EXPECT_EQ(file.find("f3"), nullptr);
}

TEST(Safetensors, BlockTypesAreBytesToOtherReaders) {
  const Scratch folder;
  const std::string path = folder / "blocks.safetensors";
  NamedTensors tensors;
  for (const DType dtype : {DType::kQ8, DType::kQ4, DType::kQ4K}) {
    Tensor tensor(Shape{3, 2, 256}, dtype);
    for (size_t i = 0; i < tensor.size_bytes(); ++i) static_cast<uint8_t*>(tensor.raw())[i] = static_cast<uint8_t>(i);
    tensors.push_back({std::string(dtype_name(dtype)), tensor});
  }
  tensors.push_back({"odd", Tensor(Shape{3}, DType::kU8)});  // what follows it is not aligned
  write_safetensors(path, tensors, {{"format", "pt"}});
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.metadata().at(kBlocksKey), R"({"Q4":"Q4","Q4_K":"Q4_K","Q8":"Q8"})");
  for (const NamedTensor& named : tensors) {
    const TensorEntry* const entry = file.find(named.name);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->dtype, named.tensor.dtype());
    EXPECT_EQ(entry->shape, named.tensor.shape());
    ASSERT_EQ(entry->size_bytes, named.tensor.size_bytes());
    EXPECT_EQ(std::memcmp(entry->view().raw(), named.tensor.raw(), entry->size_bytes), 0);
  }
  std::ifstream stream(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(stream), {});
  EXPECT_NE(text.find(R"("Q8":{"dtype":"U8","shape":[3,2,272])"), std::string::npos) << text.substr(0, 300);
  EXPECT_THROW(write_safetensors(path, {{"w", Tensor(Shape{2, 33}, DType::kQ8)}}), Error);
  EXPECT_THROW(write_safetensors(path, {{"w", Tensor(Shape{2, 64}, DType::kQ4K)}}), Error);
}

TEST(Safetensors, HeaderIsPaddedToEightBytes) {
  const Scratch folder;
  for (const char* name : {"a", "ab", "abc", "abcd"}) {
    write_safetensors(folder / "x.safetensors", {{name, counting({2}, DType::kF32)}});
    std::ifstream stream(folder / "x.safetensors", std::ios::binary);
    uint64_t length = 0;
    stream.read(reinterpret_cast<char*>(&length), sizeof length);
    EXPECT_EQ(length % 8, 0u);
    EXPECT_EQ(stream.get(), '{');
  }
}

TEST(Safetensors, ViewsOutliveTheFileObject) {
  const Scratch folder;
  write_safetensors(folder / "x.safetensors", {{"w", counting({4}, DType::kF32)}});
  Tensor view = SafetensorsFile::open(folder / "x.safetensors").find("w")->view();
  expect_same(view, counting({4}, DType::kF32));
}

TEST(Safetensors, MisalignedBytesAreCopied) {
  const Tensor expected = counting({3}, DType::kF32, 1);
  for (size_t shift = 0; shift < 8; ++shift) {
    const std::string header = R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})" + std::string(shift, ' ');
    const std::string text = with_header(header, std::string(static_cast<const char*>(expected.raw()), 12));
    const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(text)), "test");
    const Tensor view = file.find("w")->view();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.raw()) % sizeof(float), 0u) << shift;
    expect_same(view, expected);
  }
}

TEST(Safetensors, EntriesComeInTheOrderOfTheirBytes) {
  const std::string text = with_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},)"
                                       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                                       "xyz");
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(text)), "test");
  EXPECT_EQ(file.entries()[0].name, "b");
  EXPECT_EQ(file.entries()[1].name, "a");
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const Scratch folder;
  write_safetensors(folder / "x.safetensors", {{"a", counting({5}, DType::kF32)}, {"b", counting({3}, DType::kBF16)}},
                    {{"k", "v"}});
  std::ifstream stream(folder / "x.safetensors", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(stream)), {});
  ASSERT_GT(whole.size(), 100u);
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string part = whole.substr(0, length);
    EXPECT_THROW(SafetensorsFile::parse(std::as_bytes(std::span(part)), "part"), Error) << length;
  }
}

TEST(Safetensors, FirstNotFiniteNamesThePlace) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    Tensor values = counting({6}, DType::kF32);
    values.f32()[4] = std::nanf("");
    values.f32()[5] = std::numeric_limits<float>::infinity();
    Tensor stored({6}, dtype);
    narrow(values.f32(), dtype, stored.raw(), 6);
    TensorEntry entry{"w", dtype, {6}, static_cast<const std::byte*>(stored.raw()), stored.size_bytes(), nullptr};
    EXPECT_EQ(entry.first_not_finite(), 4);
    entry.shape = {4};
    entry.size_bytes = 4 * dtype_size(dtype);
    EXPECT_EQ(entry.first_not_finite(), std::nullopt);
  }
}

TEST(SafetensorsWriter, NothingAppearsBeforeFinish) {
  const Scratch folder;
  const std::string path = folder / "x.safetensors";
  write_safetensors(path, {{"old", counting({1}, DType::kF32)}});
  {
    SafetensorsWriter writer(path, {{"a", DType::kF32, {2}}, {"b", DType::kBF16, {2}}});
    writer.write("b", counting({2}, DType::kBF16));
    EXPECT_NE(SafetensorsFile::open(path).find("old"), nullptr);
    EXPECT_EQ(message_of([&] { writer.finish(); }), path + ": \"a\" was not written");
  }
  EXPECT_NE(SafetensorsFile::open(path).find("old"), nullptr);
  EXPECT_EQ(files_in(folder), 1u);
  SafetensorsWriter writer(path, {{"a", DType::kF32, {2}}, {"b", DType::kBF16, {2}}});
  writer.write("b", counting({2}, DType::kBF16));
  writer.write("a", counting({2}, DType::kF32));
  writer.finish();
  expect_same(SafetensorsFile::open(path).find("a")->view(), counting({2}, DType::kF32));
}

TEST(SafetensorsWriter, WhatDoesNotFitIsRefused) {
  const Scratch folder;
  const std::string path = folder / "x.safetensors";
  const Tensor two = counting({2}, DType::kF32);
  EXPECT_EQ(message_of([&] {
              write_safetensors(path, {{"a", two}, {"a", two}});
            }),
            path + ": tensor name \"a\" is reserved or used twice");
  EXPECT_EQ(message_of([&] {
              write_safetensors(path, {{"__metadata__", two}});
            }),
            path + ": tensor name \"__metadata__\" is reserved or used twice");
  EXPECT_EQ(message_of([&] {
              write_safetensors(path, {{"\xff", two}});
            }),
            path + ": a tensor name or metadata is not valid UTF-8");
  EXPECT_EQ(message_of([&] {
              write_safetensors(path, {{"a", Tensor({2}, DType::kF32, Memory::meta())}});
            }),
            path + ": \"a\" holds no values to write");
  SafetensorsWriter writer(path, {{"a", DType::kF32, {3}}});
  EXPECT_EQ(message_of([&] { writer.write("a", two); }), path + ": \"a\" is F32 [2], expected F32 [3]");
  EXPECT_EQ(message_of([&] { writer.write("b", two); }), path + ": \"b\" was not announced");
  EXPECT_NE(message_of([&] { write_safetensors(folder / "none/x.safetensors", {}); }).find("cannot create"),
            std::string::npos);
}

// The rename at the end would put a file in the place of a device such as /dev/null.
TEST(SafetensorsWriter, OnlyARegularFileIsReplaced) {
  const Scratch folder;
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(message_of([&] { write_safetensors(pipe, {}); }),
            pipe + ": exists and is no regular file, expected one or none to write");
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(MappedFile, OnlyRegularFilesAreMapped) {
  const Scratch folder;
  EXPECT_EQ(message_of([&] { MappedFile::open(folder.path()); }), folder.path() + ": not a regular file");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(message_of([&] { MappedFile::open(folder / "pipe"); }), folder / "pipe" + ": not a regular file");
  EXPECT_EQ(message_of([&] { MappedFile::open(folder / "gone"); }),
            folder / "gone" + ": cannot open: No such file or directory");
}

TEST(MappedFile, ReleaseGivesPagesBack) {
  const Scratch folder;
  const Tensor large({int64_t{1} << 22}, DType::kF32);  // 16 MiB
  large.f32()[77] = 5;
  write_safetensors(folder / "x.safetensors", {{"w", large}});
  const auto resident_bytes = [] {
    std::ifstream statm("/proc/self/statm");
    size_t total = 0, resident = 0;
    statm >> total >> resident;
    return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  };
  const SafetensorsFile file = SafetensorsFile::open(folder / "x.safetensors");
  const TensorEntry& entry = *file.find("w");
  EXPECT_EQ(entry.first_not_finite(), std::nullopt);  // touches every page
  const size_t before = resident_bytes();
  entry.release();
  EXPECT_LT(resident_bytes() + (size_t{15} << 20), before);
  EXPECT_EQ(entry.view().f32()[77], 5);
}

TEST(Checkpoint, JoinsTheShardsOfAnIndex) {
  const Scratch folder;
  write_safetensors(folder / "a.safetensors", {{"x", counting({2}, DType::kF32)}});
  write_safetensors(folder / "b.safetensors", {{"y", counting({3}, DType::kBF16)}});
  std::ofstream(folder / "model.safetensors.index.json")
      << R"({"metadata":{"total_size":14},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}})";
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.entries().size(), 2u);
  EXPECT_EQ(checkpoint.size_bytes(), 14u);
  expect_same(checkpoint.find("y")->view(), counting({3}, DType::kBF16));
  EXPECT_EQ(checkpoint.find("z"), nullptr);
}

TEST(Checkpoint, ReadsNumberedFilesAndOneFile) {
  const Scratch folder;
  write_safetensors(folder / "model_0.safetensors", {{"x", counting({2}, DType::kF32)}});
  write_safetensors(folder / "model_1.safetensors", {{"y", counting({2}, DType::kF32)}});
  EXPECT_EQ(Checkpoint::open(folder.path()).entries().size(), 2u);
  EXPECT_EQ(Checkpoint::open(folder / "model_1.safetensors").entries().size(), 1u);
  write_safetensors(folder / "model_1.safetensors", {{"x", counting({2}, DType::kF32)}});
  EXPECT_EQ(message_of([&] { Checkpoint::open(folder.path()); }),
            folder / "model_1.safetensors" + ": \"x\" is also in " + folder / "model_0.safetensors");
}

TEST(Checkpoint, ReadsShardsWithoutAnIndexIfTheyAreAllThere) {
  const Scratch folder;
  const auto write = [&](const std::string& name, const std::string& tensor) {
    write_safetensors(folder / name, {{tensor, counting({2}, DType::kF32)}});
  };
  const auto error = [&] { return message_of([&] { Checkpoint::open(folder.path()); }); };
  write("adapter.safetensors", "stray");
  EXPECT_NE(error().find("adapter.safetensors has another name, which can be given as the path"), std::string::npos);
  write("model-00001-of-00001.safetensors", "x");
  EXPECT_EQ(Checkpoint::open(folder.path()).entries().size(), 1u) << "the stray file is left alone";
  write("model-00003-of-00003.safetensors", "z");
  EXPECT_NE(error().find("shards of several models, model of 1 and model of 3"), std::string::npos) << error();
  std::filesystem::remove(folder / "model-00001-of-00001.safetensors");
  write("model-00001-of-00003.safetensors", "x");
  EXPECT_EQ(error(),
            folder / "model-00002-of-00003.safetensors: shard 2 of 3 is missing, expected it beside the others");
  write("model-00002-of-00003.safetensors", "y");
  write("consolidated-00001-of-00002.safetensors", "x");
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.entries().size(), 3u);
  expect_same(checkpoint.find("z")->view(), counting({2}, DType::kF32));
}

TEST(Checkpoint, AFolderWithoutWeightsSaysWhatIsMissing) {
  const Scratch folder;
  EXPECT_NE(message_of([&] { Checkpoint::open(folder.path()); }).find("no weights here, expected model.safetensors"),
            std::string::npos);
}

}  // namespace
}  // namespace carousel::formats
