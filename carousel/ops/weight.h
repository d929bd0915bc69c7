// SPDX-License-Identifier: Apache-2.0
// What a projection holds. Packing hangs here (and later quantisation, masks, adapters); only ops::linear,
// ops::embedding and their kernels look inside.
#pragma once

#include <cstdint>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// A matrix [rows, cols] in f32, f16 or bf16, and the bias of its projection.
///   kPanels: for products. Panels of kPanelRows output rows, zero-padded; within a panel the columns follow each
///            other, in groups of one (f32, f16) or two (bf16) so that a group is one 32-bit or 16-bit lane per row.
///   kRows:   row-major, for look-up only.
class Weight {
 public:
  enum class Layout : uint8_t { kPanels, kRows };
  static constexpr int64_t kPanelRows = 32;

  Weight() = default;
  /// Fresh, zeroed; on kMeta nothing is allocated. Throws kShape: another dtype, rows or cols below 1, overflow.
  Weight(int64_t rows, int64_t cols, DType dtype, Layout layout, Device device = Device::kCpu);

  bool defined() const { return rows_ > 0; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  Layout layout() const { return layout_; }
  Device device() const { return storage_.device(); }
  size_t size_bytes() const;  // as held, bias and padding included
  const Tensor& storage() const { return storage_; }
  /// Bytes of one panel in kPanels layout: f32 and f16 [cols][32], bf16 [ceil(cols / 2)][32][2].
  static size_t panel_bytes(int64_t cols, DType dtype);

  /// Packs `count` row-major rows of this weight's dtype, starting at row `first`, split over the stream's threads.
  /// The source may have any alignment.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major);
  /// The inverse, widened to f32: out [count, cols].
  void read_rows(int64_t first, int64_t count, float* out) const;

  Tensor bias;  // [rows] f32, or empty

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  DType dtype_ = DType::kF32;
  Layout layout_ = Layout::kPanels;
  Tensor storage_;  // bytes as laid out above
};

}  // namespace carousel
