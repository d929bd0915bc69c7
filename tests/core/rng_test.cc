// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace carousel {
namespace {

using Block = std::array<uint32_t, 4>;

// The known answers of philox 4x32-10 published with Random123 (Salmon et al., SC 2011). The counter's low half is our
// block, its high half our stream; the key is our seed.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, ReadsOneStreamInOrder) {
  Rng rng(7, 3);
  for (uint64_t block = 0; block < 5; ++block) {
    for (const uint32_t word : philox(7, 3, block)) EXPECT_EQ(rng.bits(), word);
  }
}

TEST(Rng, StreamsAndSeedsDiffer) {
  EXPECT_NE(Rng(1, 0).bits(), Rng(1, 1).bits());
  EXPECT_NE(Rng(1, 0).bits(), Rng(2, 0).bits());
}

TEST(Rng, MomentsAreThoseOfTheDistributions) {
  constexpr int kCount = 200000;
  Rng rng(11);
  double sum = 0, sum_normal = 0, square = 0, cube = 0;
  for (int i = 0; i < kCount; ++i) {
    const double uniform = rng.uniform();
    ASSERT_GE(uniform, 0.0);
    ASSERT_LT(uniform, 1.0);
    sum += uniform;
    const double normal = rng.normal();
    ASSERT_TRUE(std::isfinite(normal));
    sum_normal += normal;
    square += normal * normal;
    cube += normal * normal * normal;
  }
  // Five standard errors of each mean.
  EXPECT_NEAR(sum / kCount, 0.5, 5 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(sum_normal / kCount, 0, 5 * std::sqrt(1.0 / kCount));
  EXPECT_NEAR(square / kCount, 1, 5 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(cube / kCount, 0, 5 * std::sqrt(15.0 / kCount));
}

}  // namespace
}  // namespace carousel
