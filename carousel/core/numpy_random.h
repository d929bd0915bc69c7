// SPDX-License-Identifier: Apache-2.0
// The two random streams of numpy that published wirings are drawn with, to the bit: the legacy RandomState (MT19937)
// and default_rng (SeedSequence and PCG64, O'Neill 2014), each with its own way of choosing. Weights use core/rng.h.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace carousel {

/// numpy.random.RandomState(seed).
class NumpyRandomState {
 public:
  explicit NumpyRandomState(uint32_t seed) : engine_(seed) {}
  /// Uniform over 0..last; last < 2^32. Draws nothing when last is 0.
  int64_t below_or(int64_t last);
  /// choice(n): an index of [0, n).
  int64_t choice(int64_t n) { return below_or(n - 1); }
  /// choice(n, size=count, replace=False), in the order drawn. count <= n.
  std::vector<int64_t> choice(int64_t n, int64_t count);

 private:
  std::mt19937 engine_;
};

/// numpy.random.default_rng(seed).
class NumpyGenerator {
 public:
  explicit NumpyGenerator(uint64_t seed);
  /// Uniform over 0..last; last < 2^32 - 1. Draws nothing when last is 0.
  int64_t below_or(int64_t last);
  int64_t choice(int64_t n) { return below_or(n - 1); }
  /// choice(n, size=count, replace=False), in the order drawn. count <= n.
  std::vector<int64_t> choice(int64_t n, int64_t count);

 private:
  struct Word128 {
    uint64_t high, low;
  };
  uint64_t next64();
  uint32_t next32();
  void step();

  Word128 state_{};
  Word128 increment_{};
  uint32_t kept_ = 0;  // the high half of the last 64 bits, handed out second
  bool has_kept_ = false;
};

}  // namespace carousel
