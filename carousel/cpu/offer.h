// SPDX-License-Identifier: Apache-2.0
// An Offer is one thread's work in steps that follow each other, each step made of independent pieces. Its owner walks
// the steps alone while the other threads have work of their own; a thread that has none helps with pieces. Which
// thread does a piece must change nothing. The pieces of the current step are one 64-bit word, open_:
//
//   63 .......... 32 | 31 .............. 16 | 15 ......... 0
//   number of the    | first piece that     | pieces of the
//   step             | nobody has taken     | step
//
// 1. The owner alone calls share(). It writes left_, step_ and done_by_helpers_ = 0 before it opens the step; its
//    release store of open_ publishes them, and what the owner wrote for the pieces to read.
// 2. A piece belongs to the thread whose compare-exchange (acquire) moved the first piece past it. The number of the
//    step is in the word, so a piece is never taken of a step that has ended.
// 3. A helper adds 1 to done_by_helpers_, with release, after each piece. share() returns once it has read there, with
//    acquire, all the pieces that it did not do itself: then nobody is inside a piece, and the owner sees what the
//    pieces wrote and may change what they read.
// 4. left_ is a hint for choosing whom to help. Nothing else depends on it.
#pragma once

#include <sched.h>

#include <cstdint>

namespace carousel::cpu::CAROUSEL_ISA {

/// A wait of one pause at a time. Every kWaitsPerYield of them it yields: the thread it waits for may need this core.
class Patience {
 public:
  void wait() {
    if (++waits_ % kWaitsPerYield == 0) sched_yield();
#if defined(__SSE2__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
  }

  bool is_over() const { return waits_ >= kMostWaits; }

 private:
  static constexpr int64_t kWaitsPerYield = 1000;  // they take tens of microseconds
  static constexpr int64_t kMostWaits = 10 * kWaitsPerYield;
  int64_t waits_ = 0;
};

class alignas(64) Offer {
 public:
  static constexpr int64_t kMostPieces = 4096;

  /// For the owner: runs f(i) for the pieces [0, count) of its next step, helpers taking some, and returns when all are
  /// done. count is at most kMostPieces. `left` is how much of the owner's work is still to do, this step included.
  template <class F>
  void share(int64_t count, int64_t left, F&& f) {
    __atomic_store_n(&left_, left, __ATOMIC_RELAXED);
    __atomic_store_n(&done_by_helpers_, int64_t{0}, __ATOMIC_RELAXED);
    ++step_;
    __atomic_store_n(&open_, step_ << 32 | static_cast<uint64_t>(count), __ATOMIC_RELEASE);
    int64_t own = 0;
    for (int64_t i = take(); i >= 0; i = take(), ++own) f(i);
    for (Patience patience; __atomic_load_n(&done_by_helpers_, __ATOMIC_ACQUIRE) < count - own;) patience.wait();
    __atomic_store_n(&left_, int64_t{0}, __ATOMIC_RELAXED);
  }
  /// For a helper: runs f(i) for pieces that nobody has taken; false if there were none.
  template <class F>
  bool help(F&& f) {
    bool any = false;
    for (int64_t i = take(); i >= 0; i = take()) {
      f(i);
      __atomic_fetch_add(&done_by_helpers_, int64_t{1}, __ATOMIC_RELEASE);
      any = true;
    }
    return any;
  }
  /// How much the owner has still to do while it is in share(); otherwise 0.
  int64_t left() const { return __atomic_load_n(&left_, __ATOMIC_RELAXED); }

 private:
  static constexpr uint64_t kNext = uint64_t{1} << 16;

  /// The piece the caller owns from here on; -1: none is left.
  int64_t take() {
    uint64_t seen = __atomic_load_n(&open_, __ATOMIC_ACQUIRE);
    for (;;) {
      const uint64_t next = seen >> 16 & 0xFFFF, count = seen & 0xFFFF;
      if (next >= count) return -1;
      if (__atomic_compare_exchange_n(&open_, &seen, seen + kNext, false, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
        return static_cast<int64_t>(next);
      }
    }
  }

  uint64_t open_ = 0;                        // step, first free piece, pieces: drawn above
  uint64_t step_ = 0;                        // number of the step that is open or was last; the owner's
  int64_t left_ = 0;                         // what left() returns
  alignas(64) int64_t done_by_helpers_ = 0;  // pieces of the open step that helpers have done
};

}  // namespace carousel::cpu::CAROUSEL_ISA
