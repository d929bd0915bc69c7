// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/run_queue.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

namespace carousel {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

TEST(RunQueue, ThreadsThatShareACoreWait) {
  double ran = 0, waited = 0;
  if (!(std::ifstream("/proc/self/schedstat") >> ran >> waited)) GTEST_SKIP() << "this kernel does not count";
  cpu_set_t allowed, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);  // a thread started below inherits the one core
  const double before = seconds_waited_for_cores();
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load()) {
    }
  });
  for (const auto start = Clock::now(); since(start) < 0.1;) {
  }
  const double shared = seconds_waited_for_cores() - before;
  stop.store(true);
  other.join();
  sched_setaffinity(0, sizeof allowed, &allowed);
  EXPECT_GT(shared, 0.03) << "each of two threads that never sleep waits while the other runs";
  EXPECT_GE(before, 0);
}

}  // namespace
}  // namespace carousel
