// SPDX-License-Identifier: Apache-2.0
// The order in which a run takes rows: a function of (seed, epoch, place), so nothing is stored.
#pragma once

#include <cstdint>

namespace carousel::train {

enum class Order {
  kShuffled,    // a keyed permutation of (seed, epoch)
  kSequential,  // as the rows lie
};

struct OrderOptions {
  uint64_t seed = 0;
  Order order = Order::kShuffled;
  /// What is cut at the end of a row goes on from its detached state. The rows then lie in lanes, each a run of rows
  /// that follow each other; places take the lanes in turns. Shuffled, an epoch begins its run at a place of its own.
  bool carry_state = false;
  int64_t lanes = 1;  // at least the most rows of a step, so that a step holds one row of each lane at most
};

class RowOrder {
 public:
  RowOrder() = default;
  /// rows >= 1, options.lanes >= 1.
  RowOrder(int64_t rows, const OrderOptions& options);

  int64_t rows() const { return rows_; }    // of an epoch
  int64_t lanes() const { return lanes_; }  // 1 without carried states
  bool is_shuffled() const { return options_.order == Order::kShuffled; }
  bool carries() const { return options_.carry_state; }
  uint64_t seed() const { return options_.seed; }
  /// The row's number, 0 <= place < rows(), 0 <= epoch < 2^32.
  int64_t at(int64_t epoch, int64_t place) const;
  int64_t lane(int64_t place) const { return carries() ? place % lanes_ : 0; }

 private:
  int64_t rows_ = 1;
  int64_t lanes_ = 1;
  OrderOptions options_;
};

}  // namespace carousel::train
