// SPDX-License-Identifier: Apache-2.0
// Columns of a matrix. Ops take them as Columns, with the tensor they belong to; kernels see them as a View.
#pragma once

#include <cstdint>

#include "carousel/core/assert.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// Columns first .. first + count of a row-major matrix [N, W]. By default there are none.
struct Columns {
  Tensor of;  // [N, W]
  int64_t first = 0;
  int64_t count = 0;

  bool defined() const { return of.defined(); }
  int64_t rows() const { return of.dim(0); }
};
/// Throws Error(kShape) where `matrix` is no matrix or has no such columns.
Columns columns(const Tensor& matrix, int64_t first, int64_t count);
/// All columns of `matrix`.
Columns columns(const Tensor& matrix);
/// Throws Error(kShape) "where: name is ..." unless `columns` are [rows, width] f32.
void check_columns(const char* where, const char* name, const Columns& columns, int64_t rows, int64_t width);

/// A matrix in a kernel's arguments: row n starts `stride` elements after row n - 1. It has no owner and no width.
struct View {
  void* data = nullptr;  // the first row; null on meta, or where an op is given no such matrix
  int64_t stride = 0;    // elements
  DType dtype = DType::kF32;

  float* f32() const {
    CAROUSEL_DASSERT(dtype == DType::kF32);
    return static_cast<float*>(data);
  }
};
View view(const Columns& columns);
View view(const Tensor& matrix);

}  // namespace carousel
