// SPDX-License-Identifier: Apache-2.0
// The thread pool: every index once, on any number of threads, awake or asleep, from several callers. Run under TSan
// in CI.
#include "carousel/core/parallel.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>
#include <vector>

#include "carousel/core/error.h"

namespace carousel {
namespace {

TEST(ThreadPool, EveryIndexRunsOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
      std::vector<int> runs(static_cast<size_t>(count), 0);  // no index is shared: a race here is a bug of the pool
      parallel_for(pool, count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const int n : runs) ASSERT_EQ(n, 1) << threads << " threads, " << count << " indices";
    }
  }
}

TEST(ThreadPool, NegativeCountRunsNothing) {
  ThreadPool pool(2);
  parallel_for(pool, -1, [](int64_t) { FAIL(); });
}

TEST(ThreadPool, RegionsFollowEachOther) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64, 0);
  for (int64_t region = 0; region < 20000; ++region) {
    parallel_for(pool, 64, [&](int64_t i) {
      if (values[static_cast<size_t>(i)] == region) values[static_cast<size_t>(i)] = region + 1;
    });
  }
  for (const int64_t value : values) EXPECT_EQ(value, 20000);
}

TEST(ThreadPool, SleepingThreadsWake) {
  ThreadPool pool(4);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // well beyond the spin
    std::atomic<int> inside{0};
    std::atomic<int> most{0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    // Each task waits for the other three: returns only if all four threads take part.
    parallel_for(pool, 4, [&](int64_t) {
      const int now = inside.fetch_add(1) + 1;
      for (int seen = most.load(); seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      while (most.load() < 4 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    });
    ASSERT_EQ(most.load(), 4);
  }
}

TEST(ThreadPool, SecondCallerWaits) {
  ThreadPool pool(3);
  std::atomic<int> regions_open{0};
  std::atomic<int64_t> total{0};
  const auto caller = [&] {
    for (int round = 0; round < 500; ++round) {
      std::atomic<bool> first{true};
      parallel_for(pool, 10, [&](int64_t) {
        if (first.exchange(false)) {
          EXPECT_EQ(regions_open.fetch_add(1), 0);
        }
        if (total.fetch_add(1) % 10 == 9) regions_open.fetch_sub(1);  // the tenth task of this region
      });
    }
  };
  std::thread one(caller), two(caller);
  one.join();
  two.join();
  EXPECT_EQ(total.load(), 2 * 500 * 10);
}

TEST(ThreadPool, ShutsDownAwakeAndAsleep) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(4);
    if (round % 2 == 0) parallel_for(pool, 8, [](int64_t) {});
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Every slice of a step reads what all slices of the step before wrote: a step that began early is seen, here and by
// TSan. More slices than threads, or than threads that wake in time, are done by those that are there.
TEST(ParallelSteps, AStepSeesAllOfTheStepBefore) {
  for (const int threads : {1, 2, 4, 7}) {
    ThreadPool pool(threads);
    for (const int64_t slices : {0, 1, 2, 4, 9, 64}) {
      const int64_t steps = slices > threads ? 50 : 2000;
      std::vector<int64_t> values[2];
      for (std::vector<int64_t>& v : values) v.assign(static_cast<size_t>(slices), 0);
      std::atomic<int64_t> wrong{0};
      parallel_steps(pool, slices, steps, [&](int64_t slice, int64_t step) {
        const std::vector<int64_t>& before = values[step % 2];
        for (const int64_t value : before) wrong.fetch_add(value == step ? 0 : 1, std::memory_order_relaxed);
        values[(step + 1) % 2][static_cast<size_t>(slice)] = step + 1;
      });
      EXPECT_EQ(wrong.load(), 0) << threads << " threads, " << slices << " slices";
      for (const int64_t value : values[steps % 2]) EXPECT_EQ(value, steps);
    }
  }
}

TEST(ParallelSteps, ASleepyThreadJoinsLater) {
  ThreadPool pool(4);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // all sleep
    std::vector<int64_t> runs(4, 0);
    parallel_steps(pool, 4, 100, [&](int64_t slice, int64_t step) {
      if (slice == 2 && step == 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_EQ(runs[static_cast<size_t>(slice)]++, step);
    });
    EXPECT_EQ(runs, std::vector<int64_t>(4, 100));
  }
}

TEST(ThreadPool, SignalsToTheProcessAreLeftToTheCaller) {
  const auto blocks = [](int signal) {
    sigset_t blocked;
    EXPECT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &blocked), 0);
    return sigismember(&blocked, signal) == 1;
  };
  ThreadPool pool(3);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> seen{0};
  parallel_for(pool, 3, [&](int64_t) {
    const bool is_caller = std::this_thread::get_id() == caller;
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) EXPECT_EQ(blocks(signal), !is_caller);
    for (const int signal : {SIGSEGV, SIGBUS}) EXPECT_FALSE(blocks(signal));
    seen.fetch_add(1);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (seen.load() < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();  // one each
  });
  EXPECT_EQ(seen.load(), 3);
  EXPECT_FALSE(blocks(SIGINT));
}

TEST(ThreadPool, RefusesNoThreads) {
  EXPECT_THROW(ThreadPool(0), Error);
  EXPECT_THROW(ThreadPool(-3), Error);
}

TEST(PhysicalCores, BetweenOneAndLogical) {
  EXPECT_GE(physical_cores(), 1);
  EXPECT_LE(physical_cores(), static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace carousel
