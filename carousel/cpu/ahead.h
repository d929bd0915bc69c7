// SPDX-License-Identifier: Apache-2.0
// Rows that a later piece of work will read, brought from memory while this one computes. They lie far apart, so the
// hardware prefetcher would begin anew with each.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

class RowsAhead {
 public:
  explicit RowsAhead(int64_t rows) : rows_(rows) {}
  /// `rows` pieces of `width` floats, `stride` apart; at most kMostParts times.
  void add(const float* data, int64_t stride, int64_t width) {
    parts_[count_++] = {data, stride, width};
    lines_ += rows_ * ((width - 1) / kLine + 1);
  }
  /// Cache lines in all.
  int64_t lines() const { return lines_; }
  /// The next `lines` of them, into the second level of cache; nothing once all are.
  void fetch(int64_t lines) {
    for (; lines > 0 && part_ < count_ && rows_ > 0; --lines) {
      const Part& part = parts_[part_];
      __builtin_prefetch(part.data + row_ * part.stride + column_, 0, 2);
      column_ += kLine;
      if (column_ < part.width) continue;
      column_ = 0;
      if (++row_ < rows_) continue;
      row_ = 0;
      ++part_;
    }
  }
  void fetch_all() { fetch(lines_); }

 private:
  static constexpr int64_t kLine = 16;  // floats
  static constexpr int kMostParts = 6;
  struct Part {
    const float* data;
    int64_t stride, width;
  };
  Part parts_[kMostParts];
  int64_t rows_, lines_ = 0, row_ = 0, column_ = 0;
  int count_ = 0, part_ = 0;
};

}  // namespace carousel::cpu::CAROUSEL_ISA
