// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/error.h"

#include <gtest/gtest.h>

namespace carousel {
namespace {

TEST(Error, CarriesKindAndFormattedMessage) {
  try {
    fail(ErrorKind::kShape, "op: w is {}, expected {}", 3, "[2]");
    FAIL() << "fail() returned";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kShape);
    EXPECT_STREQ(error.what(), "op: w is 3, expected [2]");
  }
}

TEST(ErrorDeathTest, ABrokenInvariantNamesItselfAndAborts) {
  CAROUSEL_ASSERT(1 + 1 == 2);
  EXPECT_DEATH(CAROUSEL_ASSERT(1 + 1 == 3), "error_test.cc:[0-9]+: broken invariant: 1 \\+ 1 == 3");
}

}  // namespace
}  // namespace carousel
