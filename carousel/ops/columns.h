// SPDX-License-Identifier: Apache-2.0
// Columns of a matrix: as ops take them, with the tensor they belong to, and as kernels see them.
#pragma once

#include <cstdint>

#include "carousel/core/assert.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// Columns first .. first + count of a row-major matrix [N, W]. Default: none.
struct Columns {
  Tensor of;  // [N, W]
  int64_t first = 0;
  int64_t count = 0;

  bool defined() const { return of.defined(); }
  int64_t rows() const { return of.dim(0); }
};
/// Throws Error(kShape) where `matrix` is no matrix or has no such columns.
Columns columns(const Tensor& matrix, int64_t first, int64_t count);
/// All of them.
Columns columns(const Tensor& matrix);
/// Throws Error(kShape) "where: name is ..." unless `columns` are [rows, width] f32.
void check_columns(const char* where, const char* name, const Columns& columns, int64_t rows, int64_t width);

/// What a kernel's arguments hold: row n starts `stride` elements after row n - 1. No owner, no width.
struct View {
  void* data = nullptr;  // null on meta, or for what an op does without
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
