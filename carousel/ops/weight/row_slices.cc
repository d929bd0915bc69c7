// SPDX-License-Identifier: Apache-2.0
// Sizes that are checked, and rows of one dtype as rows of another.
#include "carousel/ops/weight/row_slices.h"

#include "carousel/core/error.h"
#include "carousel/core/quant_blocks.h"

namespace carousel {

size_t checked_bytes(size_t a, size_t b) {
  size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product) || product > static_cast<size_t>(INT64_MAX)) {
    fail(ErrorKind::kShape, "weight: {} x {} bytes overflows", a, b);
  }
  return product;
}

std::vector<std::byte> convert_rows(const std::byte* rows, DType from, int64_t count, int64_t cols, DType to) {
  const size_t row_values = static_cast<size_t>(cols);
  const size_t from_bytes = dtype_bytes(from, row_values), to_bytes = dtype_bytes(to, row_values);
  std::vector<float> values(row_values);
  std::vector<std::byte> out(static_cast<size_t>(count) * to_bytes);
  for (size_t r = 0; r < static_cast<size_t>(count); ++r) {
    widen(rows + r * from_bytes, from, values.data(), row_values);
    narrow(values.data(), to, out.data() + r * to_bytes, row_values);
  }
  return out;
}

}  // namespace carousel
