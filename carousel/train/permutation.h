// SPDX-License-Identifier: Apache-2.0
// A keyed permutation of 0 .. n - 1 that is computed, not stored: a Feistel network whose round function is Philox, on
// the least square of a power of two that holds n; numbers beyond n are walked through until one below it comes
// (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
#pragma once

#include <cstdint>

namespace carousel::train {

class Permutation {
 public:
  /// `stream` tells permutations of one seed apart. n >= 1.
  Permutation(int64_t n, uint64_t seed, uint64_t stream);

  int64_t size() const { return static_cast<int64_t>(n_); }
  /// The number at `place`, 0 <= place < n.
  int64_t at(int64_t place) const;

 private:
  uint64_t encipher(uint64_t value) const;

  uint64_t n_;
  uint64_t seed_;
  uint64_t stream_;
  int half_bits_;  // the network works on 2 * half_bits_ bits
};

}  // namespace carousel::train
