// SPDX-License-Identifier: Apache-2.0
// Prefetching: a loop names early what it will read, and the line is fetched into a level of cache while the loop
// computes something else.
//   near    the first level: read within the next few hundred instructions
//   far     the second level: read later, and too much to push into the first now
//   write   the first level: written soon
// A core fetches some twenty lines at a time; a loop that names more waits. The hardware prefetches one stream of
// addresses by itself: these functions are for streams that it does not see, or sees too late.
#pragma once

#include <cstdint>

namespace carousel::cpu {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kLineFloats = 16;

#define CAROUSEL_PREFETCH static inline __attribute__((always_inline, unused)) void

/// The line at p.
CAROUSEL_PREFETCH prefetch_near(const void* p) { __builtin_prefetch(p, 0, 3); }
CAROUSEL_PREFETCH prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }
CAROUSEL_PREFETCH prefetch_write(const void* p) { __builtin_prefetch(p, 1, 3); }

/// The lines of `count` floats at p, or of `count` bytes.
CAROUSEL_PREFETCH prefetch_near_floats(const float* p, int64_t count) {
  for (int64_t j = 0; j < count; j += kLineFloats) prefetch_near(p + j);
}
CAROUSEL_PREFETCH prefetch_far_floats(const float* p, int64_t count) {
  for (int64_t j = 0; j < count; j += kLineFloats) prefetch_far(p + j);
}
CAROUSEL_PREFETCH prefetch_far_bytes(const void* p, int64_t count) {
  for (int64_t i = 0; i < count; i += kLineBytes) prefetch_far(static_cast<const char*>(p) + i);
}
#undef CAROUSEL_PREFETCH

}  // namespace carousel::cpu

#ifdef CAROUSEL_ISA  // for *_cpu.cc alone: these functions need not be inlined
namespace carousel::cpu::CAROUSEL_ISA {

/// The lines of one run of addresses, prefetched far, `step` at a time between other work.
struct LinesAhead {
  const char* bytes;  // the next line
  int64_t lines;      // lines left
  int64_t step;       // lines at a time

  void fetch() {
    const int64_t here = lines < step ? lines : step;
    for (int64_t i = 0; i < here; ++i) prefetch_far(bytes + i * kLineBytes);
    bytes += here * kLineBytes;
    lines -= here;
  }
};

/// Rows of several matrices that later work will read, prefetched far, one run of kRunLines lines at a time. The rows
/// lie far apart, so the hardware would begin anew with each. Here a part is one of the matrices.
class RowsAhead {
 public:
  explicit RowsAhead(int64_t rows) : rows_(rows) {}
  /// Adds a matrix: `rows` rows of `width` floats, `stride` apart. At most kMostParts matrices.
  void add(const float* data, int64_t stride, int64_t width) {
    if (rows_ == 0) return;
    const int64_t runs = (width - 1) / kRunFloats + 1;
    parts_[count_++] = {data, stride, runs};
    runs_ += rows_ * runs;
    if (count_ == 1) at_ = data, runs_left_ = runs;
  }
  /// How many runs all matrices have together.
  int64_t runs() const { return runs_; }
  /// Prefetches the next run; does nothing after the last. It passes a row's end: to test for it would cost more.
  void fetch() {
    if (part_ == count_) return;
#pragma GCC unroll 8
    for (int64_t i = 0; i < kRunLines; ++i) prefetch_far(at_ + i * kLineFloats);
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
    int64_t stride, runs;  // floats from row to row; runs of one row
  };
  void next_row() {
    if (++row_ == rows_) row_ = 0, ++part_;
    if (part_ == count_) return;
    at_ = parts_[part_].data + row_ * parts_[part_].stride;
    runs_left_ = parts_[part_].runs;
  }

  const float* at_ = nullptr;          // the next run
  int64_t runs_left_ = 0;              // runs left of the current row
  Part parts_[kMostParts];             // the matrices
  int64_t rows_, runs_ = 0, row_ = 0;  // rows of every matrix; runs of all; the current row
  int count_ = 0, part_ = 0;           // matrices; the current one
};

}  // namespace carousel::cpu::CAROUSEL_ISA
#endif
