// SPDX-License-Identifier: Apache-2.0
// Work in steps that follow each other, each of independent pieces: a thread walks the steps alone as long as the
// others have work of their own, and threads that have none take pieces off it. Which thread does a piece must change
// nothing.
#pragma once

#include <sched.h>

#include <cstdint>

namespace carousel::cpu::CAROUSEL_ISA {

/// Waits a moment, the longer the more often it was called in vain: whoever is waited for may need this core.
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
  static constexpr int64_t kWaitsPerYield = 1000;  // tens of microseconds
  static constexpr int64_t kMostWaits = 10 * kWaitsPerYield;
  int64_t waits_ = 0;
};

class alignas(64) Offer {
 public:
  static constexpr int64_t kMostPieces = 4096;

  /// The owner's: calls f(i) for the pieces [0, count) of its next step, some of them by helpers, and returns when all
  /// are done. `left` is how much of its work is still to do.
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
  /// A helper's: f(i) for pieces nobody has begun; false if there were none.
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
  /// Of the owner's work, while it shares; otherwise 0.
  int64_t left() const { return __atomic_load_n(&left_, __ATOMIC_RELAXED); }

 private:
  static constexpr uint64_t kNext = uint64_t{1} << 16;

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

  uint64_t open_ = 0;  // number of the step, first piece not taken, pieces: a taken one is of the step that was seen
  uint64_t step_ = 0;
  int64_t left_ = 0;
  alignas(64) int64_t done_by_helpers_ = 0;
};

}  // namespace carousel::cpu::CAROUSEL_ISA
