// SPDX-License-Identifier: Apache-2.0
// Files in the layout of torch.save, made by tools/torch_file.py.
#include "carousel/formats/torch_zip.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "carousel/core/error.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/pickle.h"
#include "carousel/formats/zip.h"

namespace carousel::formats {
namespace {

const std::string kSeeds = CAROUSEL_SOURCE_DIR "/tests/fuzz/corpus/torch_zip/";

TEST(TorchZip, TensorsAndSettingsOfALightningFile) {
  const TorchFile file = open_torch_zip(kSeeds + "lightning");
  ASSERT_EQ(file.entries.size(), 2u);
  EXPECT_EQ(file.entries[0].name, "w");
  EXPECT_EQ(file.entries[0].shape, Shape{2});
  EXPECT_EQ(file.entries[0].dtype, DType::kF32);
  EXPECT_EQ(file.entries[1].name, "v");
  EXPECT_EQ(file.entries[1].shape, (Shape{1, 2}));
  EXPECT_EQ(file.entries[1].bytes, file.entries[0].bytes) << "two tensors of one storage";
  EXPECT_EQ(file.hyper_parameters, (Json{{"a", {1, 2.5, nullptr, true}}, {"b", {{"c", "d"}}}}));
}

TEST(TorchZip, IsACheckpointWhateverItsName) {
  const Checkpoint checkpoint = Checkpoint::open(kSeeds + "lightning");
  EXPECT_NE(checkpoint.find("w"), nullptr);
  EXPECT_EQ(checkpoint.find("x"), nullptr);
  EXPECT_NE(checkpoint.metadata().at("hyper_parameters").find("2.5"), std::string::npos);
  EXPECT_FALSE(is_torch_zip(CAROUSEL_SOURCE_DIR "/tests/fuzz/corpus/safetensors/one"));
}

// Cut anywhere, the file is refused or what is read lies within it.
TEST(TorchZip, AnyCutIsSafe) {
  std::ifstream stream(kSeeds + "lightning", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(stream)), {});
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(parse_torch_zip(std::as_bytes(std::span(cut)), "cut"), Error) << size;
  }
}

TEST(TorchZip, AFlippedByteIsAnError) {
  EXPECT_EQ(crc32(0, std::as_bytes(std::span("123456789", 9))), 0xCBF43926u);
  EXPECT_EQ(crc32(crc32(0, std::as_bytes(std::span("123456789", 4))), std::as_bytes(std::span("56789", 5))),
            0xCBF43926u);
  std::ifstream stream(kSeeds + "lightning", std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(stream)), {});
  const auto parse = [&](bool checks_sums) {
    return parse_torch_zip(std::as_bytes(std::span(bytes)), "file", checks_sums);
  };
  const size_t storage =
      static_cast<size_t>(reinterpret_cast<const char*>(parse(true).entries[0].bytes) - bytes.data());
  const std::string text(bytes.begin(), bytes.end());
  const size_t setting = text.find("hyper_parameters");  // in the pickle
  for (const size_t at : {storage, storage + 7, setting}) {
    bytes[at] ^= 1;
    try {
      parse(true);
      ADD_FAILURE() << "accepted a flipped byte at " << at;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("its bytes are damaged"), std::string::npos) << error.what();
    }
    EXPECT_NO_THROW(parse(false));
    bytes[at] ^= 1;
  }
  // A writer that computed no sums leaves zeros.
  for (size_t at = 0; (at = text.find("PK\x01\x02", at)) != std::string::npos; ++at) {
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at) + 16, 4, '\0');
  }
  bytes[storage] ^= 1;
  EXPECT_EQ(parse(true).entries.size(), 2u);
}

// A call copies its arguments: many calls of one large tuple must not multiply it.
TEST(Pickle, CallsOfASharedTupleAreBounded) {
  std::string text("\x80\x02(", 3);
  for (int i = 0; i < 1000; ++i) text += 'N';
  text += std::string("tq\0ctorch\nSize\nh\0R.", 20);
  try {
    Pickle(std::as_bytes(std::span(text)), "p", [](std::string_view) { return true; });
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("a call with more than 16 arguments"), std::string::npos) << error.what();
  }
}

TEST(Pickle, ValuesAreLimited) {
  const std::string text("\x80\x02(NNNNt.", 9);
  EXPECT_THROW(Pickle(std::as_bytes(std::span(text)), "p", [](std::string_view) { return true; }, {100, 3}), Error);
}

}  // namespace
}  // namespace carousel::formats
