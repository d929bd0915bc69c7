// SPDX-License-Identifier: Apache-2.0
// Which cores the threads of a pool run on where more threads want a core than there are. Invariants: placement.cc.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace carousel {

/// The threads of a pool, "members", by number; member 0 is the thread that called it. The system gives a core that two
/// threads want to each in turn, milliseconds at a time. A member whose turn it is not may be inside a region, where
/// all others wait for it; and as they spin, no core is idle and the system has no reason to move that member. So a
/// member that waits moves it: it has the time, and the core it spins on. A moved member gets back at once the cores it
/// could run on before; the caller of a pool has them when run() returns. Where the system refuses sched_setaffinity,
/// nothing is moved.
class Placement {
 public:
  explicit Placement(int members);

  void enrol(int member);  // the calling thread is `member` from now on
  void enter(int member);  // from now on it is, or may be, inside a region: others wait for it
  void leave(int member);  // from now on it is inside no region
  /// Waits until nobody moves `member`, which has left: a thread it starts would inherit the core it is moved to.
  void settle(int member) const;
  void rest(int member);  // leaves, and frees its core: the calling thread is about to sleep

  /// For a member that waits and shares its core with another: moves it to a core that no member is on. Member 0, or a
  /// member that finds no such core, yields instead.
  void make_way(int member);

  /// For a member that has waited long for those inside: moves to this core the first of them that has not run since a
  /// call at least 20 us ago, and a calling member other than 0 to the core where that one was. True if one was moved.
  bool relieve(int member);

 private:
  struct alignas(64) Member {
    std::atomic<pid_t> thread{0};     // the system's number of the thread
    std::atomic<clockid_t> clock{};   // the clock of the time that thread has run
    std::atomic<int> core{-1};        // the core it was last seen on, by itself or by who moved it; -1: none
    std::atomic<bool> inside{false};  // it is, or may be, inside a region
    std::atomic<bool> moved{false};   // another member is moving it at this moment
  };

  bool is_free(int core, int member) const;  // no member but this one is on the core
  int held_elsewhere(int core);

  int count_;                                   // members
  std::unique_ptr<Member[]> members_;           // [count_]
  std::atomic_flag moving_ = ATOMIC_FLAG_INIT;  // one thread at a time looks and moves; guards ran_ and next_look_
  std::unique_ptr<int64_t[]> ran_;              // [count_] how long each member had run when last looked at, ns
  int64_t next_look_ = 0;                       // time of the next look, ns
};

}  // namespace carousel
