// SPDX-License-Identifier: Apache-2.0
// Which samples count: those of a machine as fast as its best, in which no thread waited for a core.
#include "carousel/bench/samples.h"

#include <gtest/gtest.h>

namespace carousel::bench {
namespace {

Sample sample(double seconds, double quiet, double waited) {
  Sample sample;
  sample.seconds = seconds;
  sample.quiet = quiet;
  sample.waited = waited;
  return sample;
}

TEST(Samples, DisturbedOnesAreRejected) {
  Samples samples;
  samples.add(sample(1.0, 100, 0));
  samples.add(sample(2.0, 80, 0));       // the probes beside it were slow
  samples.add(sample(3.0, 99, 0.2));     // a neighbour had the core within it
  samples.add(sample(1.2, 95, 0.0005));  // the system's own threads
  EXPECT_EQ(samples.rejected(), 2u);
  EXPECT_DOUBLE_EQ(samples.median(&Sample::seconds), 1.1);
}

TEST(Samples, OnAMachineThatIsNeverQuietTheLeastDisturbedStands) {
  Samples samples;
  EXPECT_TRUE(samples.quiet().empty());
  samples.add(sample(3.0, 100, 0.5));
  samples.add(sample(2.0, 100, 0.1));
  samples.add(sample(1.0, 50, 0.0));
  ASSERT_EQ(samples.quiet().size(), 1u);
  EXPECT_DOUBLE_EQ(samples.quiet()[0].seconds, 2.0);
  EXPECT_EQ(samples.rejected(), 2u);
}

}  // namespace
}  // namespace carousel::bench
