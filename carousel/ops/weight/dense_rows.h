// SPDX-License-Identifier: Apache-2.0
// The forms of a Weight whose rows lie as in a file: its own, for look-up, and those of a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// A matrix [rows, cols] row by row. A row of q8 or q4 is whole blocks (core/quant_blocks.h).
class DenseRows {
 public:
  /// Fresh, zeroed; on meta nothing is allocated. Throws Error(kShape) on overflow.
  DenseRows(int64_t rows, int64_t cols, DType dtype, Memory& memory);

  size_t size_bytes() const { return bytes_.size_bytes(); }
  const Tensor& bytes() const { return bytes_; }
  /// The contracts are those of Weight::write_rows and Weight::read_rows.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype);
  void read_rows(int64_t first, int64_t count, float* out) const;

 private:
  int64_t cols_;
  DType dtype_;
  Tensor bytes_;
};

/// Rows where they are, in memory that others keep (a mapped file), at any alignment; read only. Products pack panels
/// of them anew every time.
class MappedRows {
 public:
  MappedRows(std::shared_ptr<const void> keep, const std::byte* row_major, int64_t rows, int64_t cols, DType dtype);

  DType dtype() const { return dtype_; }
  size_t size_bytes() const { return bytes_.size_bytes(); }
  /// Rows `first` to first + count as panels, the first row theirs too; `first` is a multiple of
  /// DensePanels::kPanelRows.
  ///   panels [ceil(count / kPanelRows)][panel_bytes], split over the stream's threads
  void pack_panels(const Stream& stream, int64_t first, int64_t count, void* panels) const;
  void read_rows(int64_t first, int64_t count, float* out) const;  // the contract is Weight::read_rows'

 private:
  int64_t rows_, cols_;
  DType dtype_;
  Tensor bytes_;
};

}  // namespace carousel
