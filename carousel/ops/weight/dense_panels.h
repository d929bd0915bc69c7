// SPDX-License-Identifier: Apache-2.0
// The form of a Weight that products read: panels of 32 rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// A matrix [rows, cols] as panels of kPanelRows output rows, zero-padded. Within a panel the columns follow each
/// other, in groups of one (f32, f16) or two (bf16), so that a group is one 32-bit or 16-bit lane per row. q8 and q4
/// are panel blocks of 32 columns, the last one padded with zeros; other block types are drawn in block_forms.h. Blocks
/// take as many bytes as in a file.
class DensePanels {
 public:
  static constexpr int64_t kPanelRows = 32;
  /// A panel block of q8: u8 codes [8][32 rows][4 columns], each q + 128, then f16 scales [32 rows].
  static constexpr int64_t kQ8BlockBytes = 8 * kPanelRows * 4 + kPanelRows * 2;
  /// A panel block of q4: bytes [4][32 rows][4], whose low halves are columns 0 to 15 and high halves columns 16 to 31,
  /// each q + 8; then f16 scales [32 rows].
  static constexpr int64_t kQ4BlockBytes = 4 * kPanelRows * 4 + kPanelRows * 2;

  /// Fresh, zeroed; on meta nothing is allocated. Throws Error(kShape) on overflow.
  DensePanels(int64_t rows, int64_t cols, DType dtype, Memory& memory);

  DType dtype() const { return dtype_; }
  size_t size_bytes() const { return panels_.size_bytes(); }
  const Tensor& panels() const { return panels_; }  // bytes [panels][panel_bytes]
  /// Bytes of one panel: f32 and f16 [cols][32], bf16 [ceil(cols / 2)][32][2], block types as 32 rows of them.
  static size_t panel_bytes(int64_t cols, DType dtype);

  /// Has the system back the memory of these rows before they are written for the first time.
  void back_rows(const Stream& stream, int64_t first, int64_t count) const;
  /// The contracts are those of Weight::write_rows and Weight::read_rows.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype);
  void read_rows(int64_t first, int64_t count, float* out) const;
  /// Packs the transpose of `matrix` [cols, rows] f32 into panels of f32, or of bf16, rounded to it.
  void write_transpose(const Stream& stream, const float* matrix);

 private:
  int64_t rows_, cols_;
  DType dtype_;
  Tensor panels_;
};

/// Rows begin to end (within a panel) of one panel, from row-major `rows` of the same dtype, of which the first is row
/// `begin`; of any alignment.
void pack_panel_rows(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols, DType dtype);

/// One f32 panel of a transpose: [rows][kPanelRows] from `count` columns (at most kPanelRows) of `matrix`, whose rows
/// are `stride` apart; zeros beyond count.
void pack_transposed_panel(float* panel, const float* matrix, int64_t rows, int64_t stride, int64_t count);

}  // namespace carousel
