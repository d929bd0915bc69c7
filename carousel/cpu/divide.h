// SPDX-License-Identifier: Apache-2.0
// How a kernel divides independent items among threads: in tasks worth waking a thread for, inline when there are none.
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

/// Runs f(worker, item) for every item, where a worker is a number below workers(stream, items): tasks that need
/// scratch memory own one piece per worker. Items are claimed one by one.
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

}  // namespace carousel::cpu::CAROUSEL_ISA
