// SPDX-License-Identifier: Apache-2.0
// Numbers as numpy prints them (its documentation, and seeds everyone has seen).
#include "carousel/core/numpy_random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace carousel {
namespace {

std::vector<int64_t> draw(auto& random, int64_t last, int count) {
  std::vector<int64_t> values;
  for (int i = 0; i < count; ++i) values.push_back(random.below_or(last));
  return values;
}

TEST(NumpyRandom, RandomStateIsNumpys) {
  NumpyRandomState integers(0);  // RandomState(0).randint(10, size=10)
  EXPECT_EQ(draw(integers, 9, 10), (std::vector<int64_t>{5, 0, 3, 3, 7, 9, 3, 5, 2, 4}));
  NumpyRandomState order(0);  // RandomState(0).permutation(10)
  EXPECT_EQ(order.choice(10, 10), (std::vector<int64_t>{2, 8, 4, 9, 1, 6, 7, 3, 0, 5}));
  NumpyRandomState first(0);
  EXPECT_EQ(first.choice(10, 3), (std::vector<int64_t>{2, 8, 4}));
}

TEST(NumpyRandom, GeneratorIsNumpys) {
  NumpyGenerator documented(12345);  // default_rng(12345).integers(low=0, high=10, size=3)
  EXPECT_EQ(draw(documented, 9, 3), (std::vector<int64_t>{6, 2, 7}));
}

template <class Random>
void choices_are_distinct() {
  for (const uint32_t seed : {0u, 1u, 4000000000u}) {
    Random random(seed);
    // The last two take the way of large populations.
    for (const auto& [n, count] :
         {std::pair<int64_t, int64_t>{1, 1}, {1, 0}, {7, 7}, {100, 3}, {10001, 200}, {10001, 201}, {10001, 10001}}) {
      std::vector<int64_t> chosen = random.choice(n, count);
      ASSERT_EQ(static_cast<int64_t>(chosen.size()), count);
      std::sort(chosen.begin(), chosen.end());
      EXPECT_EQ(std::adjacent_find(chosen.begin(), chosen.end()), chosen.end());
      if (count > 0) {
        EXPECT_GE(chosen.front(), 0);
        EXPECT_LT(chosen.back(), n);
      }
    }
  }
}

TEST(NumpyRandom, ChoicesAreDistinct) {
  choices_are_distinct<NumpyRandomState>();
  choices_are_distinct<NumpyGenerator>();
}

// 60000 draws over 6 values: each about 10000, with a deviation of 91.
TEST(NumpyRandom, DrawsAreUniform) {
  NumpyGenerator generator(9);
  NumpyRandomState legacy(9);
  std::vector<int> counts(12);
  for (int i = 0; i < 60000; ++i) {
    ++counts[static_cast<size_t>(generator.below_or(5))];
    ++counts[static_cast<size_t>(6 + legacy.below_or(5))];
  }
  for (const int count : counts) EXPECT_NEAR(count, 10000, 450);
}

}  // namespace
}  // namespace carousel
