// SPDX-License-Identifier: Apache-2.0
// The stories beside the repository: the ids that the reference was trained on, and the rows of its curve.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "carousel/core/parallel.h"
#include "carousel/formats/npy.h"
#include "carousel/model/load.h"
#include "carousel/train/data.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

const std::string kShared = CAROUSEL_SOURCE_DIR "/../shared/";
const std::string kIds = kShared + "golden/curve-stories/ids.npy";

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kIds)) GTEST_SKIP() << "no reference cases at hand";
    file_ = formats::MappedFile::open(kIds);
    const formats::NpyArray array = formats::view_npy(file_->bytes(), kIds);
    ids_.resize(array.elements.size() / sizeof(uint16_t));
    std::memcpy(ids_.data(), array.elements.data(), array.elements.size());
  }
  DataOptions options(const std::string& path, int64_t seq) {
    DataOptions out;
    out.paths = {{path, 0}};
    out.source.cache_folder = scratch_ / "cache";
    out.seq = seq;
    out.order.order = Order::kSequential;
    return out;
  }

  Scratch scratch_;
  std::shared_ptr<const formats::MappedFile> file_;
  std::vector<uint16_t> ids_;
};

TEST_F(Stories, SequentialRowsAreThoseOfTheCurve) {
  Data data(options(kIds, 512), id_vocabulary(4096));
  EXPECT_EQ(data.rows(), 2400) << "300 steps of 8";
  Row row;
  for (int64_t r = 0; r < data.rows(); ++r) {
    data.row(0, r, row);
    ASSERT_EQ(row.lengths, (std::vector<int64_t>{512})) << "no reset inside a row";
    for (int64_t t = 0; t < 512; ++t) {
      ASSERT_EQ(row.tokens[static_cast<size_t>(t)], ids_[static_cast<size_t>(r * 512 + t)]);
      ASSERT_EQ(row.targets[static_cast<size_t>(t)], ids_[static_cast<size_t>(r * 512 + t + 1)]);
    }
  }
}

// The reference put id 0 before each document, and so does a text whose documents share their borders. The file begins
// with the separator; the reference made an empty document of what is before it, which is skipped here.
TEST_F(Stories, TextHasTheIdsOfTheReference) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  const std::string folder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
  const model::Model model = model::load(folder, stream);
  Data data(options(kShared + "data/stories_train.txt", 4096), vocabulary_of(folder, model));
  Row row;
  ASSERT_EQ(ids_[1], 0);
  size_t at = 1;
  for (int64_t r = 0; at + 5000 < ids_.size(); ++r) {
    data.row(0, r, row);
    for (size_t t = 0; t < row.tokens.size(); ++t, ++at) {
      ASSERT_EQ(row.tokens[t], ids_[at]) << at;
      ASSERT_EQ(row.targets[t], ids_[at + 1]) << at;
    }
  }
}

}  // namespace
}  // namespace carousel::train
