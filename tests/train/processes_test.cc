// SPDX-License-Identifier: Apache-2.0
// Where arrays and rows are cut for several processes.
#include "carousel/train/processes.h"

#include <gtest/gtest.h>

#include "carousel/core/error.h"
#include "carousel/mpi/job.h"

namespace carousel::train {
namespace {

using Wholes = std::vector<std::pair<int64_t, int64_t>>;

TEST(Processes, CutsAreEvenAndAtWholeLines) {
  EXPECT_EQ(cut_evenly(160, 1, {}), (Cuts{0, 160}));
  EXPECT_EQ(cut_evenly(160, 2, {}), (Cuts{0, 80, 160}));
  EXPECT_EQ(cut_evenly(160, 4, {}), (Cuts{0, 32, 80, 112, 160}));
  EXPECT_EQ(cut_evenly(16, 4, {}), (Cuts{0, 0, 0, 0, 16}));  // shards may be empty
  EXPECT_EQ(cut_evenly(0, 2, {}), (Cuts{0, 0, 0}));
}

TEST(Processes, NoCutLiesWithinAWhole) {
  EXPECT_EQ(cut_evenly(160, 2, Wholes{{16, 96}}), (Cuts{0, 96, 160}));
  EXPECT_EQ(cut_evenly(160, 2, Wholes{{64, 160}}), (Cuts{0, 64, 160}));
  EXPECT_EQ(cut_evenly(160, 2, Wholes{{0, 80}, {80, 160}}), (Cuts{0, 80, 160}));
  EXPECT_EQ(cut_evenly(160, 4, Wholes{{0, 160}}), (Cuts{0, 0, 0, 160, 160}));
}

/// One of several, without the others.
class OneOf : public Processes {
 public:
  OneOf(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

 private:
  int rank_, size_;
};

TEST(Processes, EveryRowIsInOneSpan) {
  for (const int size : {1, 2, 3, 4, 7}) {
    for (const int64_t rows : {0, 1, 3, 8, 64}) {
      int64_t next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const auto [first, end] = OneOf(rank, size).span_of(rows);
        EXPECT_EQ(first, next);
        EXPECT_LE(end - first, (rows + size - 1) / size);
        next = end;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

TEST(Processes, ABuildWithoutMpiRefusesToBeOneOfMany) {
  EXPECT_EQ(mpi::library(), "");
  try {
    mpi::join(4);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_NE(std::string(error.what()).find("one of 4 processes, but carousel was built without MPI"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace carousel::train
