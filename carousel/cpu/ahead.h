// SPDX-License-Identifier: Apache-2.0
// Rows that a later piece of work will read, brought from memory while this one computes. They lie far apart, so the
// hardware prefetcher would begin anew with each.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

constexpr int64_t kLineFloats = 16;  // of a cache line

class RowsAhead {
 public:
  explicit RowsAhead(int64_t rows) : rows_(rows) {}
  /// `rows` pieces of `width` floats, `stride` apart; at most kMostParts times.
  void add(const float* data, int64_t stride, int64_t width) {
    if (rows_ == 0) return;
    const int64_t runs = (width - 1) / kRunFloats + 1;
    parts_[count_++] = {data, stride, runs};
    runs_ += rows_ * runs;
    if (count_ == 1) at_ = data, runs_left_ = runs;
  }
  /// Runs of kRunLines cache lines in all.
  int64_t runs() const { return runs_; }
  /// The next run, into the second level of cache; nothing once all are. One at a time: a core has no more than some
  /// twenty lines under way, and with more it waits. Lines beyond a row's end come too: to know would cost more.
  void fetch() {
    if (part_ == count_) return;
#pragma GCC unroll 8
    for (int64_t i = 0; i < kRunLines; ++i) __builtin_prefetch(at_ + i * kLineFloats, 0, 2);
    at_ += kRunFloats;
    if (--runs_left_ == 0) next_row();
  }
  void fetch_all() {
    while (part_ < count_) fetch();
  }

 private:
  static constexpr int64_t kRunLines = 8, kRunFloats = kRunLines * kLineFloats;
  static constexpr int kMostParts = 6;
  struct Part {
    const float* data;
    int64_t stride, runs;  // of a row
  };
  void next_row() {
    if (++row_ == rows_) row_ = 0, ++part_;
    if (part_ == count_) return;
    at_ = parts_[part_].data + row_ * parts_[part_].stride;
    runs_left_ = parts_[part_].runs;
  }

  const float* at_ = nullptr;
  int64_t runs_left_ = 0;
  Part parts_[kMostParts];
  int64_t rows_, runs_ = 0, row_ = 0;
  int count_ = 0, part_ = 0;
};

}  // namespace carousel::cpu::CAROUSEL_ISA
