// SPDX-License-Identifier: Apache-2.0
// What a projection holds. Packing, quantisation and masks hang here (and later adapters); only ops::linear,
// ops::embedding and their kernels look inside.
#pragma once

#include <cstdint>
#include <memory>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"
#include "carousel/cpu/isa.h"
#include "carousel/ops/weight/sparse_blocks.h"
#include "carousel/ops/weight/sparse_panels.h"

namespace carousel {

/// A matrix [rows, cols] in f32, f16, bf16, q8 or q4, and the bias of its projection.
///   kPanels: for products. Panels of kPanelRows output rows, zero-padded; within a panel the columns follow each
///            other, in groups of one (f32, f16) or two (bf16) so that a group is one 32-bit or 16-bit lane per row.
///            q8 and q4: panel blocks of 32 columns, the last one padded with zeros (below).
///   kRows:   row-major, for look-up. A row of q8 or q4 is whole blocks (core/quant_blocks.h). Of a matrix that is
///            over() others' memory also for products, which pack its panels anew every time.
/// A masked matrix is held as its live weights alone where that is faster, else as panels with zeros.
class Weight {
 public:
  enum class Layout : uint8_t { kPanels, kRows };
  static constexpr int64_t kPanelRows = 32;
  /// A panel block of q8: u8 codes [8][32 rows][4 columns], each q + 128, then f16 scales [32 rows].
  static constexpr int64_t kQ8PanelBlockBytes = 8 * kPanelRows * 4 + kPanelRows * 2;
  /// Of q4: bytes [4][32 rows][4], whose low halves are columns 0 to 15 and high halves columns 16 to 31, each q + 8;
  /// then f16 scales [32 rows].
  static constexpr int64_t kQ4PanelBlockBytes = 4 * kPanelRows * 4 + kPanelRows * 2;

  Weight() = default;
  /// Fresh, zeroed; on kMeta nothing is allocated. Throws kShape: another dtype, rows or cols below 1, overflow.
  Weight(int64_t rows, int64_t cols, DType dtype, Layout layout, Memory& memory = Memory::host());
  /// The same for a projection that `mask` cuts: kPanels, or sparse. q8 and q4 are SparseBlocks where that pays and
  /// `byte_expand` says that their kernel is fast; else what is sparse is held in f16: where SparseBlocks pay, their
  /// values, so that one file is one model on every machine.
  Weight(const Mask& mask, DType dtype, Memory& memory = Memory::host(), bool byte_expand = cpu::has_byte_expand());

  /// Row-major rows where they are, in memory that `keep` keeps alive (a mapped file): kRows, at any alignment, and
  /// read only.
  static Weight over(std::shared_ptr<const void> keep, const std::byte* row_major, int64_t rows, int64_t cols,
                     DType dtype);

  bool defined() const { return rows_ > 0; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  Layout layout() const { return layout_; }
  Memory& memory() const { return *memory_; }
  Device device() const { return memory_->device(); }
  bool in_place() const { return in_place_; }  // made by over()
  size_t size_bytes() const;                   // as held, bias and padding included
  const Tensor& storage() const { return storage_; }
  const SparsePanels* sparse() const { return sparse_.get(); }
  const SparseBlocks* sparse_blocks() const { return sparse_blocks_.get(); }  // both null: storage() holds the weights
  /// Bytes of one panel in kPanels layout: f32 and f16 [cols][32], bf16 [ceil(cols / 2)][32][2], q8 and q4
  /// [ceil(cols / 32)] panel blocks.
  static size_t panel_bytes(int64_t cols, DType dtype);

  /// Packs `count` row-major rows, starting at row `first`, split over the stream's threads. The source may have any
  /// alignment; its rows follow each other, dtype_bytes(source_dtype, cols) each. Rows of this weight's own dtype are
  /// repacked as they are, others (of a float or block type) go through f32. Of a sparse
  /// weight only the live ones are taken.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype);
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major) {
    write_rows(stream, first, count, row_major, dtype_);
  }
  /// Of kRows: rows `first` to first + count as panels, the first row theirs too; `first` is a multiple of kPanelRows.
  ///   panels [ceil(count / kPanelRows)][panel_bytes], split over the stream's threads; null (on meta): nothing is done
  void pack_panels(const Stream& stream, int64_t first, int64_t count, void* panels) const;
  /// The inverse, widened to f32: out [count, cols].
  void read_rows(int64_t first, int64_t count, float* out) const;

  Tensor bias;  // [rows] f32, or empty

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  DType dtype_ = DType::kF32;
  Layout layout_ = Layout::kPanels;
  Memory* memory_ = &Memory::host();
  bool in_place_ = false;
  Tensor storage_;                        // bytes as laid out above
  std::shared_ptr<SparsePanels> sparse_;  // or the live weights of a masked matrix
  std::shared_ptr<SparseBlocks> sparse_blocks_;
};

}  // namespace carousel
