// SPDX-License-Identifier: Apache-2.0
// How a kernel divides its work among threads. Every way claims tasks dynamically, runs inline what is not worth waking
// a thread for, and divides only what is independent, so that no division changes a bit. Which to choose:
//
//   parallel_for      n tasks that are known to be worth a thread each (core/parallel.h)
//   parallel_ranges   many small items alike: they go in ranges of kTaskWork
//   parallel_workers  items that need scratch memory: one piece of it per worker
//   parallel_runs     items that lie side by side in memory and are read in order: a thread walks neighbours, so that
//                     it prefetches what is next
//   parallel_steps    steps that depend on each other, each of independent slices: a slice stays on one thread, and its
//                     data in that core's cache (core/parallel.h)
//   Offer             steps of one owner, whose pieces threads without work may take (cpu/offer.h)
//
// Begin with parallel_ranges. Take parallel_workers where a task needs memory of its own, parallel_runs where the work
// is bound by reading, and the last two where an item depends on the one before.
//
// An ItemRun's word is [first, end) of the items nobody has taken: `first` in bits 63 to 32, `end` in bits 31 to 0. An
// item belongs to the thread whose compare-exchange took it off an end. The exchange is relaxed: the region publishes
// what items read and write, not the word.
#pragma once

#include <cstdint>

#include "carousel/core/stream.h"

namespace carousel::cpu::CAROUSEL_ISA {

constexpr int64_t kTaskWork = 1 << 18;  // floating-point operations of about 10 us

/// Calls f(begin, end) over [0, items) in ranges of at least kTaskWork operations; `item_work` is one item's.
template <class F>
inline void parallel_ranges(const Stream& stream, int64_t items, int64_t item_work, F&& f) {
  if (items <= 0) return;
  const int64_t range = item_work >= kTaskWork ? 1 : (kTaskWork - 1) / (item_work > 0 ? item_work : 1) + 1;
  const int64_t tasks = (items - 1) / range + 1;
  if (tasks == 1) return f(int64_t{0}, items);
  parallel_for(*stream.pool, tasks, [&](int64_t task) {
    const int64_t begin = task * range;
    f(begin, items - begin < range ? items : begin + range);
  });
}

/// Runs f(worker, item) for every item, where a worker is a number below workers(stream, items): worker w owns piece w
/// of the scratch memory. Items are claimed one by one.
inline int64_t workers(const Stream& stream, int64_t items) {
  return items < stream.pool->threads() ? items : stream.pool->threads();
}
template <class F>
inline void parallel_workers(const Stream& stream, int64_t items, int64_t total_work, F&& f) {
  if (items <= 0) return;
  const int64_t count = workers(stream, items);
  if (count == 1 || total_work < 2 * kTaskWork) {
    for (int64_t item = 0; item < items; ++item) f(int64_t{0}, item);
    return;
  }
  int64_t next = 0;
  parallel_for(*stream.pool, count, [&](int64_t worker) {
    for (;;) {
      const int64_t item = __atomic_fetch_add(&next, int64_t{1}, __ATOMIC_RELAXED);
      if (item >= items) return;
      f(worker, item);
    }
  });
}

/// The items [first, end) that a thread has still to do: it takes them from the front, other threads from the back.
struct alignas(64) ItemRun {
  uint64_t first_end;  // first in the high half, end in the low half

  int64_t left() const {
    const uint64_t seen = __atomic_load_n(&first_end, __ATOMIC_RELAXED);
    return static_cast<int64_t>(seen & UINT32_MAX) - static_cast<int64_t>(seen >> 32);
  }
  /// The item taken; -1 if none is left.
  int64_t take(bool from_front) {
    uint64_t seen = __atomic_load_n(&first_end, __ATOMIC_RELAXED);
    for (;;) {
      const uint64_t first = seen >> 32, end = seen & UINT32_MAX;
      if (first >= end) return -1;
      const uint64_t rest = from_front ? seen + (uint64_t{1} << 32) : seen - 1;
      if (__atomic_compare_exchange_n(&first_end, &seen, rest, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        return static_cast<int64_t>(from_front ? first : end - 1);
      }
    }
  }
};

/// Runs f(item) for every item, where neighbouring items lie side by side in memory. A thread walks a run of
/// neighbours, so that an item prefetches the beginning of the next; then it takes items off the longest run's end.
template <class F>
inline void parallel_runs(const Stream& stream, int64_t items, int64_t total_work, F&& f) {
  constexpr int64_t kMostRuns = 128, kMostItems = UINT32_MAX;
  if (items <= 0) return;
  const int64_t threads = workers(stream, items), count = threads < kMostRuns ? threads : kMostRuns;
  if (count == 1 || total_work < 2 * kTaskWork || items > kMostItems) {
    for (int64_t item = 0; item < items; ++item) f(item);
    return;
  }
  ItemRun runs[kMostRuns];
  for (int64_t w = 0; w < count; ++w) {
    runs[w].first_end = static_cast<uint64_t>(w * items / count) << 32 | static_cast<uint64_t>((w + 1) * items / count);
  }
  parallel_for(*stream.pool, count, [&](int64_t worker) {
    for (int64_t item = runs[worker].take(true); item >= 0; item = runs[worker].take(true)) f(item);
    for (;;) {
      int64_t longest = 0;
      for (int64_t w = 1; w < count; ++w) longest = runs[w].left() > runs[longest].left() ? w : longest;
      const int64_t item = runs[longest].take(false);
      if (item >= 0) {
        f(item);
      } else if (runs[longest].left() <= 0) {
        return;
      }
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
