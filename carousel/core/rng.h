// SPDX-License-Identifier: Apache-2.0
// Philox 4x32-10 (Salmon et al., SC 2011): a counter-based generator, so number i of stream s is the same on every
// device and in every order of evaluation.
#pragma once

#include <array>
#include <cstdint>

namespace carousel {

/// The 128 bits of counter block (block, stream) under `seed`.
std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t block);

/// A sequential reader of one stream.
class Rng {
 public:
  explicit Rng(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}
  uint32_t bits();
  double uniform();  // [0, 1), 32 bits
  double normal();   // mean 0, variance 1 (Box-Muller)

  uint64_t seed() const { return seed_; }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t next_ = 0;  // index of the next 32-bit word
  std::array<uint32_t, 4> block_{};
};

}  // namespace carousel
