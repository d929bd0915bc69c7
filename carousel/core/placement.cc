// SPDX-License-Identifier: Apache-2.0
// A waiting thread gives its core to a thread that has lost its own.
//
// 1. thread and clock of a member are written by that member (enrol) before it sets inside. The release store of inside
//    publishes them; who moves reads them after an acquire load of inside that gave true.
// 2. inside is written by its member alone. It is true whenever others may wait for the member; a worker leaves it true
//    between regions, until it rests.
// 3. core is a hint, relaxed: written by its member, and by the member that has just moved it. A wrong value costs a
//    needless move or a yield, nothing else.
// 4. Whoever holds moving_ alone reads and writes ran_ and next_look_ and changes affinities, so no two moves of this
//    pool overlap. It is tried, never waited for.
// 5. A member that is moved by another has moved == true. The mover stores moved before it loads inside; the member
//    stores inside = false (leave) before it loads moved (settle); all four are sequentially consistent. So one that
//    has left and settled is not moved any more, and has the cores it had.
#include "carousel/core/placement.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

namespace carousel {
namespace {

constexpr int64_t kBetweenLooks = 20'000;  // ns: whoever runs has been seen to run by then
constexpr int64_t kAfterMove = 200'000;    // ns: who waits for a disk, not for a core, would be moved again and again

int64_t nanoseconds(clockid_t clock) {
  timespec time;
  if (clock_gettime(clock, &time) != 0) return -1;
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

/// What a thread is known by outside. Its clock and number stay valid arguments when it has ended: they are errors
/// then.
struct Identity {
  pid_t thread = gettid();
  clockid_t clock;
  Identity() {
    if (pthread_getcpuclockid(pthread_self(), &clock) != 0) clock = -1;
  }
};

/// thread: 0 is the calling one. One that waits for its turn moves with the first call; the second gives it back the
/// cores it may run on.
bool move(pid_t thread, int core) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(thread, sizeof allowed, &allowed) != 0 || !CPU_ISSET(core, &allowed)) return false;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  if (sched_setaffinity(thread, sizeof one, &one) != 0) return false;
  sched_setaffinity(thread, sizeof allowed, &allowed);
  return true;
}

/// Gives a flag back when it goes.
struct Turn {
  std::atomic_flag& flag;
  ~Turn() { flag.clear(std::memory_order_release); }
};

}  // namespace

Placement::Placement(int members)
    : count_(members),
      members_(new Member[static_cast<size_t>(members)]),
      ran_(new int64_t[static_cast<size_t>(members)]{}) {}

void Placement::enrol(int member) {
  static thread_local const Identity self;
  Member& me = members_[member];
  me.thread.store(self.thread, std::memory_order_relaxed);
  me.clock.store(self.clock, std::memory_order_relaxed);
}

void Placement::enter(int member) {
  Member& me = members_[member];
  const int core = sched_getcpu();
  if (me.core.load(std::memory_order_relaxed) != core) me.core.store(core, std::memory_order_relaxed);
  if (!me.inside.load(std::memory_order_relaxed)) me.inside.store(true, std::memory_order_release);
}

void Placement::leave(int member) { members_[member].inside.store(false); }

void Placement::settle(int member) const {
  while (members_[member].moved.load()) usleep(20);  // who moves it may wait for this core
}

void Placement::rest(int member) {
  leave(member);
  members_[member].core.store(-1, std::memory_order_relaxed);
}

bool Placement::is_free(int core, int member) const {
  for (int i = 0; i < count_; ++i) {
    if (i != member && members_[i].core.load(std::memory_order_relaxed) == core) return false;
  }
  return true;
}

void Placement::make_way(int member) {
  Member& me = members_[member];
  const int core = sched_getcpu();
  if (me.core.load(std::memory_order_relaxed) != core) me.core.store(core, std::memory_order_relaxed);
  if (is_free(core, member)) return;
  cpu_set_t allowed;
  if (member != 0 && !moving_.test_and_set(std::memory_order_acquire)) {
    const Turn turn{moving_};
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_ZERO(&allowed);
    for (int other = 0; other < CPU_SETSIZE; ++other) {
      if (!CPU_ISSET(other, &allowed) || !is_free(other, member) || !move(0, other)) continue;
      me.core.store(other, std::memory_order_relaxed);
      return;
    }
  }
  sched_yield();
}

/// The first member inside a region, on another core than this, that has not run since the last look; -1: none.
int Placement::held_elsewhere(int core) {
  int held = -1;
  for (int i = 0; i < count_; ++i) {
    const Member& it = members_[i];
    if (!it.inside.load(std::memory_order_acquire)) continue;
    const int64_t ran = nanoseconds(it.clock.load(std::memory_order_relaxed));
    const bool same = ran >= 0 && ran == ran_[i];  // it was inside at that look too: who enters, runs
    if (same && held < 0 && it.core.load(std::memory_order_relaxed) != core) held = i;
    ran_[i] = ran;
  }
  return held;
}

bool Placement::relieve(int member) {
  if (moving_.test_and_set(std::memory_order_acquire)) return false;
  const Turn turn{moving_};
  const int64_t now = nanoseconds(CLOCK_MONOTONIC);
  if (now < next_look_) return false;
  next_look_ = now + kBetweenLooks;
  const int here = sched_getcpu(), held = held_elsewhere(here);
  if (held < 0) return false;
  Member& it = members_[held];
  const int there = it.core.load(std::memory_order_relaxed);
  it.moved.store(true);  // then it is asked again: it leaves before it looks whether it is moved
  const bool done = it.inside.load() && move(it.thread.load(std::memory_order_relaxed), here);
  it.moved.store(false);
  if (!done) return false;
  it.core.store(here, std::memory_order_relaxed);
  next_look_ = now + kAfterMove;
  if (member != 0 && move(0, there)) members_[member].core.store(there, std::memory_order_relaxed);
  return true;
}

}  // namespace carousel
