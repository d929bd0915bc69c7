// SPDX-License-Identifier: Apache-2.0
#include "carousel/train/permutation.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace carousel::train {
namespace {

std::vector<int64_t> all(const Permutation& permutation) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < permutation.size(); ++i) out.push_back(permutation.at(i));
  return out;
}

TEST(Permutation, EveryNumberComesOnce) {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    std::vector<int64_t> seen(static_cast<size_t>(n), 0);
    for (const int64_t value : all(Permutation(n, 7, 3))) ++seen.at(static_cast<size_t>(value));
    EXPECT_EQ(seen, std::vector<int64_t>(static_cast<size_t>(n), 1)) << n;
  }
}

TEST(Permutation, KeysGiveOtherOrders) {
  const std::vector<int64_t> first = all(Permutation(1000, 1, 0));
  EXPECT_EQ(first, all(Permutation(1000, 1, 0)));
  EXPECT_NE(first, all(Permutation(1000, 2, 0)));
  EXPECT_NE(first, all(Permutation(1000, 1, 1)));
}

TEST(Permutation, LargeDomainsNeedNoMemory) {
  const Permutation permutation(int64_t{1} << 61, 1, 2);
  for (const int64_t place : {int64_t{0}, int64_t{12345}, (int64_t{1} << 61) - 1}) {
    EXPECT_GE(permutation.at(place), 0);
    EXPECT_LT(permutation.at(place), permutation.size());
  }
}

// Over many keys each of the 6 orders of 3 comes about equally often: chi squared of 5 degrees stays below 30.
TEST(Permutation, OrdersAreEquallyLikely) {
  std::map<std::vector<int64_t>, int> counts;
  constexpr int kKeys = 6000;
  for (uint64_t key = 0; key < kKeys; ++key) ++counts[all(Permutation(3, key, 0))];
  ASSERT_EQ(counts.size(), 6u);
  double chi = 0;
  for (const auto& [order, count] : counts) chi += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi, 30);
}

// Neighbours do not stay neighbours.
TEST(Permutation, NeighboursPart) {
  const std::vector<int64_t> order = all(Permutation(10000, 5, 0));
  int close = 0;
  for (size_t i = 1; i < order.size(); ++i) close += std::abs(order[i] - order[i - 1]) == 1 ? 1 : 0;
  EXPECT_LT(close, 20) << "2 are expected";
}

}  // namespace
}  // namespace carousel::train
