// SPDX-License-Identifier: Apache-2.0
// How the forms of a Weight take row-major rows: a panel's height at a time, over the threads, in their own dtype.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "carousel/core/stream.h"

namespace carousel {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/// a * b. Throws Error(kShape) beyond the address space.
size_t checked_bytes(size_t a, size_t b);
/// `count` rows of `cols` values of one dtype as rows of another, by way of f32.
std::vector<std::byte> convert_rows(const std::byte* rows, DType from, int64_t count, int64_t cols, DType to);

/// Rows first to first + count of a matrix, given in dtype `from`, wanted in dtype `to`.
struct RowSlices {
  int64_t first, count, cols;
  DType from, to;
};

/// Calls write(begin, end, rows) for slices that end at multiples of 32 rows, on any thread: rows begin to end of the
/// matrix, at `rows`, in the wanted dtype.
template <class Write>
void each_slice(const Stream& stream, const RowSlices& slices, const void* row_major, const Write& write) {
  constexpr int64_t kSlice = 32;
  const size_t row_bytes = dtype_bytes(slices.from, static_cast<size_t>(slices.cols));
  const int64_t first_slice = slices.first / kSlice, end_row = slices.first + slices.count;
  parallel_for(*stream.pool, ceil_div(end_row, kSlice) - first_slice, [&](int64_t i) {
    const int64_t begin = std::max(slices.first, (first_slice + i) * kSlice);
    const int64_t end = std::min(end_row, (first_slice + i + 1) * kSlice);
    const std::byte* rows =
        static_cast<const std::byte*>(row_major) + static_cast<size_t>(begin - slices.first) * row_bytes;
    std::vector<std::byte> converted;
    if (slices.from != slices.to) {
      converted = convert_rows(rows, slices.from, end - begin, slices.cols, slices.to);
      rows = converted.data();
    }
    write(begin, end, rows);
  });
}

}  // namespace carousel
