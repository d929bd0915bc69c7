// SPDX-License-Identifier: Apache-2.0
// Which cores a pool's threads run on, where more threads want one than there are.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace carousel {

/// The threads of a pool, "members", by number; member 0 is whoever called it. A core that two threads want is given to
/// each in turn, milliseconds at a time. The one whose turn it is not may be inside a region, where all others wait for
/// it; and as they spin, no core is idle and the system has no reason to move it. So those who wait do: they have the
/// time, and the core they spin on. A system that refuses sched_setaffinity leaves things as they are. Every
/// member gets the cores back that it could run on before, at once; the caller of a pool has them when it returns.
class Placement {
 public:
  explicit Placement(int members);

  void enrol(int member);  // the calling thread is `member` from now on
  void enter(int member);  // it is, or may be, inside a region: others wait for it
  void leave(int member);
  /// Waits until nobody moves `member`, which has left: a thread it starts would inherit the core it is moved to.
  void settle(int member) const;
  void rest(int member);  // leaves, and its core is free: it sleeps

  /// For a member that waits: where another one is on the same core, goes to one where none is. Member 0, and any where
  /// there is no such core, gives the other one its turn instead.
  void make_way(int member);

  /// For a member that has waited long for those inside, and goes on: the first of them that has not run since a call
  /// at least 20 us ago gets this core. A member other than 0 goes where that one was. True if there was one.
  bool relieve(int member);

 private:
  struct alignas(64) Member {
    std::atomic<pid_t> thread{0};
    std::atomic<clockid_t> clock{};  // of the time it has run
    std::atomic<int> core{-1};       // when it last looked; -1: none
    std::atomic<bool> inside{false};
    std::atomic<bool> moved{false};  // by another one, just now
  };

  bool is_free(int core, int member) const;  // of other members
  int held_elsewhere(int core);

  int count_;
  std::unique_ptr<Member[]> members_;
  std::atomic_flag moving_ = ATOMIC_FLAG_INIT;  // one thread at a time looks and moves; guards what follows
  std::unique_ptr<int64_t[]> ran_;              // how long each member had run when last looked at, ns
  int64_t next_look_ = 0;                       // ns
};

}  // namespace carousel
