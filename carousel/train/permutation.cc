// SPDX-License-Identifier: Apache-2.0
// The rounds of the network, and the walk that stays below n.
#include "carousel/train/permutation.h"

#include "carousel/core/assert.h"
#include "carousel/core/rng.h"

namespace carousel::train {
namespace {

constexpr int kRounds = 6;

}  // namespace

Permutation::Permutation(int64_t n, uint64_t seed, uint64_t stream)
    : n_(static_cast<uint64_t>(n)), seed_(seed), stream_(stream), half_bits_(1) {
  CAROUSEL_ASSERT(n >= 1);
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < n_) ++half_bits_;
}

uint64_t Permutation::encipher(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t mixed = philox(seed_, stream_, static_cast<uint64_t>(round) << 32 | right)[0];
    const uint64_t next = left ^ (mixed & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

// The walk is a cycle of the larger permutation, so it comes back below n, after four steps on average at most.
int64_t Permutation::at(int64_t place) const {
  CAROUSEL_ASSERT(0 <= place && static_cast<uint64_t>(place) < n_);
  auto value = static_cast<uint64_t>(place);
  do value = encipher(value);
  while (value >= n_);
  return static_cast<int64_t>(value);
}

}  // namespace carousel::train
