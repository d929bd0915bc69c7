// SPDX-License-Identifier: Apache-2.0
// Who gets which core where a pool's threads are in each other's way: what the moves do, with threads whose cores are
// set by hand. docs/notes/threads.md says what a neighbour costs.
#include "carousel/core/placement.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace carousel {
namespace {

std::vector<int> allowed_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void allow(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  ASSERT_EQ(sched_setaffinity(0, sizeof set, &set), 0);
}

/// A member that is inside a region, was last seen on `core`, and does not run.
class Held {
 public:
  Held(Placement& placement, int member, int core) {
    const std::vector<int> all = allowed_cores();
    thread_ = std::thread([this, &placement, member, core, all] {
      allow({core});
      placement.enrol(member);
      placement.enter(member);
      allow(all);
      inside_ = true;
      inside_.notify_one();
      end_.wait(false);
      placement.leave(member);
    });
    inside_.wait(false);
  }
  ~Held() {
    end_ = true;
    end_.notify_one();
    thread_.join();
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  std::atomic<bool> inside_{false}, end_{false};
  std::thread thread_;
};

/// Relieves for a while; where this thread is then, -1: nobody was relieved.
int core_after_relief(Placement& placement, int member) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    if (placement.relieve(member)) return sched_getcpu();
  }
  return -1;
}

class PlacementTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cores.size() < 2) GTEST_SKIP() << "one core";
  }
  /// The core f() says it is on, on a thread that may run on the first two. The system may move it as well: several
  /// attempts, until it is `expected`.
  template <class F>
  int core_after(int expected, F f) {
    int after = -1;
    for (int attempt = 0; attempt < 20 && after != expected; ++attempt) {
      std::thread([&] {
        after = f();
        EXPECT_EQ(allowed_cores(), (std::vector<int>{cores[0], cores[1]}));  // as before
      }).join();
    }
    return after;
  }
  /// `member`, on the second core, has relieved one that is held on the first, and is on `expected` then.
  void expect_after_relief(int expected, int member) {
    const auto relieve = [&] {
      Placement placement(3);
      const Held held(placement, 1, cores[0]);
      start_on(cores[1]);
      placement.enrol(member);
      return core_after_relief(placement, member);
    };
    EXPECT_EQ(core_after(expected, relieve), expected);
  }
  /// The calling thread is on `core` now, and may run on both.
  void start_on(int core) {
    allow({core});
    allow({cores[0], cores[1]});
  }
  const std::vector<int> cores = allowed_cores();
};

TEST_F(PlacementTest, WhoWaitsOnAnothersCoreGoesToAFreeOne) {
  EXPECT_EQ(core_after(cores[1],
                       [&] {
                         Placement placement(3);
                         const Held other(placement, 1, cores[0]);
                         start_on(cores[0]);
                         placement.enrol(2);
                         placement.make_way(2);
                         return sched_getcpu();
                       }),
            cores[1]);
}

TEST_F(PlacementTest, NobodyLeavesTheCoresItMayRunOn) {
  std::thread([&] {
    Placement placement(3);
    allow({cores[0]});
    const Held other(placement, 1, cores[0]);
    placement.enrol(2);
    placement.make_way(2);
    EXPECT_EQ(allowed_cores(), std::vector<int>{cores[0]});
    EXPECT_EQ(sched_getcpu(), cores[0]);
  }).join();
}

TEST_F(PlacementTest, AMemberChangesPlacesWithOneThatDoesNotRun) { expect_after_relief(cores[0], 2); }

TEST_F(PlacementTest, TheCallerGivesItsCoreAndStays) { expect_after_relief(cores[1], 0); }

TEST_F(PlacementTest, WhoIsNotInsideIsLeftAlone) {
  Placement placement(3);
  { const Held was(placement, 1, cores[0]); }  // its thread has ended, too
  placement.enrol(2);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
  while (std::chrono::steady_clock::now() < deadline) EXPECT_FALSE(placement.relieve(2));
}

}  // namespace
}  // namespace carousel
