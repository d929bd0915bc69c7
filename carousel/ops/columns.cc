// SPDX-License-Identifier: Apache-2.0
// Columns checked where they are named, and turned into what kernels see.
#include "carousel/ops/columns.h"

#include "carousel/core/error.h"

namespace carousel {

Columns columns(const Tensor& matrix, int64_t first, int64_t count) {
  const bool is_matrix = matrix.shape().rank() == 2;
  if (!is_matrix || first < 0 || count < 0 || first > matrix.dim(1) - count) {
    fail(ErrorKind::kShape, "columns: got {} to {} of {}, expected columns of a matrix", first, first + count,
         matrix.shape().str());
  }
  return {matrix, first, count};
}

Columns columns(const Tensor& matrix) { return columns(matrix, 0, matrix.shape().rank() == 2 ? matrix.dim(1) : 0); }

void check_columns(const char* where, const char* name, const Columns& columns, int64_t rows, int64_t width) {
  if (!columns.defined() || columns.rows() != rows || columns.count != width) {
    fail(ErrorKind::kShape, "{}: {} is [{}, {}], expected [{}, {}]", where, name,
         columns.defined() ? columns.rows() : 0, columns.count, rows, width);
  }
  check_dtype(where, name, columns.of, DType::kF32);
}

View view(const Columns& columns) {
  View view{nullptr, columns.defined() ? columns.of.dim(1) : 0, columns.of.dtype()};
  if (columns.defined() && columns.of.raw() != nullptr) {
    const size_t offset_bytes = static_cast<size_t>(columns.first) * dtype_size(columns.of.dtype());
    view.data = static_cast<std::byte*>(columns.of.raw()) + offset_bytes;
  }
  return view;
}

View view(const Tensor& matrix) { return {matrix.raw(), matrix.defined() ? matrix.dim(-1) : 0, matrix.dtype()}; }

}  // namespace carousel
