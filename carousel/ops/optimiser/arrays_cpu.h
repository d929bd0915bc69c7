// SPDX-License-Identifier: Apache-2.0
// Passes over flat arrays, which memory bounds.
#pragma once

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// Calls body<kPartial>(i, lanes) for every vector of [0, count), over the threads: lanes is kLanes, but for a partial
/// last one.
template <class Body>
CAROUSEL_INLINE void for_vectors(const Stream& stream, int64_t count, const Body& body) {
  constexpr int64_t kItem = 4096;
  parallel_ranges(stream, (count + kItem - 1) / kItem, kItem * 8, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kItem < count ? end * kItem : count;
    int64_t i = begin * kItem;
    for (; i + kLanes <= last; i += kLanes) body.template operator()<false>(i, kLanes);
    if (i < last) body.template operator()<true>(i, last - i);
  });
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
