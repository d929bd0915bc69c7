// SPDX-License-Identifier: Apache-2.0
// Places to rows: the permutation of an epoch, or lanes that lie side by side.
#include "carousel/train/row_order.h"

#include <algorithm>

#include "carousel/core/assert.h"
#include "carousel/core/rng.h"
#include "carousel/train/permutation.h"

namespace carousel::train {
namespace {

// Streams of Philox: the high half says for what, the low half for which epoch.
constexpr uint64_t kOrderStream = 0x6f726465, kLaneStream = 0x6c616e65;

uint64_t stream_of(uint64_t what, int64_t epoch) { return what << 32 | static_cast<uint32_t>(epoch); }

}  // namespace

RowOrder::RowOrder(int64_t rows, const OrderOptions& options)
    : rows_(rows), lanes_(options.carry_state ? std::min(options.lanes, rows) : 1), options_(options) {
  CAROUSEL_ASSERT(rows >= 1 && options.lanes >= 1);
}

int64_t RowOrder::at(int64_t epoch, int64_t place) const {
  CAROUSEL_ASSERT(epoch >= 0 && place >= 0 && place < rows_);
  if (!carries()) {
    return is_shuffled() ? Permutation(rows_, seed(), stream_of(kOrderStream, epoch)).at(place) : place;
  }
  // Lane l has the rows from l q + min(l, r) on: the first r lanes have one more than the others.
  const int64_t lane = place % lanes_, q = rows_ / lanes_, r = rows_ % lanes_;
  const int64_t number = lane * q + std::min(lane, r) + place / lanes_;
  if (!is_shuffled()) return number;
  const auto turn = philox(seed(), stream_of(kLaneStream, epoch), 0);
  const uint64_t wide = static_cast<uint64_t>(turn[0]) << 32 | turn[1];
  return (number + static_cast<int64_t>(wide % static_cast<uint64_t>(rows_))) % rows_;
}

}  // namespace carousel::train
