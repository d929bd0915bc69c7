// SPDX-License-Identifier: Apache-2.0
// The parts of a recipe that are functions of numbers: ramps of the batch, spikes of the norm, the search for a rate.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/train/batch_ramp.h"
#include "carousel/train/norm_history.h"
#include "carousel/train/rate_search.h"

namespace carousel::train {
namespace {

TEST(BatchRamp, IsAFunctionOfTheStep) {
  const BatchRamp ramp = BatchRamp::parse("2@0,8@3,5@10");
  EXPECT_EQ(ramp.at(0), 2);
  EXPECT_EQ(ramp.at(2), 2);
  EXPECT_EQ(ramp.at(3), 8);
  EXPECT_EQ(ramp.at(9), 8);
  EXPECT_EQ(ramp.at(10), 5);
  EXPECT_EQ(ramp.at(1'000'000), 5);
  EXPECT_EQ(ramp.most(), 8);
  EXPECT_EQ(BatchRamp(7).at(3), 7);
}

TEST(BatchRamp, CountsTheStepsThatTakeSoManyRows) {
  const BatchRamp ramp = BatchRamp::parse("2@0,8@3,5@10");
  for (const double rows : {0.0, 1.0, 2.0, 2.5, 6.0, 6.5, 14.0, 62.0, 63.0, 67.0, 68.0, 100.0}) {
    int64_t steps = 0;
    for (double taken = 0; taken < rows || steps == 0; ++steps) taken += static_cast<double>(ramp.at(steps));
    EXPECT_EQ(ramp.steps(rows), steps) << rows;
  }
}

TEST(BatchRamp, WhatIsNoRampIsRefused) {
  for (const char* text : {"", "8", "8@1", "8@0,", "8@0,16@0", "8@0;16@4", "0@0", "8@0 ,16@4", "a@0", "8@0,4@-1"}) {
    EXPECT_THROW(BatchRamp::parse(text), Error) << text;
  }
}

TEST(NormHistory, ASpikeIsFarAboveTheMean) {
  NormHistory norms;
  for (int i = 0; i < 100; ++i) {
    const double norm = 1 + 0.1 * std::sin(i);
    EXPECT_FALSE(norms.is_spike(norm, 4));
    norms.add(norm, 4);
  }
  EXPECT_NEAR(norms.mean, 1, 0.02);
  EXPECT_FALSE(norms.is_spike(1.2, 4));
  EXPECT_TRUE(norms.is_spike(2, 4));
  norms.add(1000, 4);
  EXPECT_TRUE(norms.is_spike(2, 4));  // a spike does not hide the next
  int skipped = 0;
  for (; norms.is_spike(3, 4); ++skipped) norms.add(3, 4);
  EXPECT_GT(skipped, 3);
  EXPECT_LT(skipped, 50);  // a lasting change is accepted
}

TEST(NormHistory, TheFirstNormsAreNoSpikes) {
  NormHistory norms;
  for (int i = 0; i < 10; ++i) norms.add(1, 4);
  EXPECT_FALSE(norms.is_spike(100, 4));
}

TEST(RateSearch, TheRateLiesWhereTheLossFalls) {
  RateSearch search;
  while (!search.done()) {
    const double rate = search.rate();
    // The loss falls from 1e-4 on, and rises from 1e-1 on.
    const double fall = std::clamp((std::log10(rate) + 4) / 3, 0.0, 1.0);
    search.add(5 - 3 * fall + 100 * std::max(0.0, std::log10(rate) + 0.5));
  }
  EXPECT_LT(search.points().size(), 100u);
  EXPECT_GT(search.valley(), 1e-4);
  EXPECT_LT(search.valley(), 1e-1);
}

TEST(RateSearch, RatesRiseByAFactor) {
  RateSearch search;
  EXPECT_DOUBLE_EQ(search.rate(), RateSearch::kFirst);
  for (int i = 0; i < RateSearch::kSteps; ++i) search.add(1);
  EXPECT_TRUE(search.done());
  EXPECT_DOUBLE_EQ(search.points().back().rate, RateSearch::kLast);
}

}  // namespace
}  // namespace carousel::train
