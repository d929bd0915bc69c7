// SPDX-License-Identifier: Apache-2.0
// How a Weight of q8 or q4 holds a matrix many of whose weights are masked: a bit for every weight, codes for the live.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"
#include "carousel/ops/weight/mask.h"

namespace carousel {

/// Panels of 32 rows; a panel is blocks of 32 columns that follow each other, each of another length:
///   {u64 live[16]; f16 scales[32]; u8 codes[number of live bits]}
/// The bits stand in the order of a dense q8 panel block, [8][32 rows][4 columns]; codes follow in the order of their
/// bits, and are q + 128, of q4 too. So a block with code 128 put where no bit is set is that q8 panel block, and
/// products have the bits they have with zeros held.
class SparseBlocks {
 public:
  static constexpr int64_t kPanelRows = 32;
  static constexpr int64_t kMaskBytes = 128;
  static constexpr int64_t kHeadBytes = kMaskBytes + kPanelRows * 2;
  static constexpr int64_t kReadBeyond = 64;  // bytes behind the last code that kernels may read

  /// Zero weights where `mask` is not; on kMeta sizes only. `dtype`: q8 or q4.
  SparseBlocks(const Mask& mask, DType dtype, Memory& memory);
  /// Whether this many live weights of `dtype` are better held so than as dense panels or as SparsePanels.
  static bool pays(int64_t live, int64_t rows, int64_t cols, DType dtype);

  DType dtype() const { return dtype_; }
  size_t size_bytes() const { return bytes_.size_bytes() + first_bytes_.size_bytes(); }
  const std::byte* bytes() const { return static_cast<const std::byte*>(bytes_.raw()); }
  const int64_t* first_bytes() const { return first_bytes_.i64(); }  // [panels + 1]

  /// Weight::write_rows and read_rows. Rows of blocks of this dtype are taken as they are; live values of others are
  /// encoded as if zeros were between them.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype);
  void read_rows(int64_t first, int64_t count, float* out) const;

 private:
  void write_panel(int64_t panel, int64_t begin, int64_t end, const std::byte* rows, DType source_dtype);
  std::vector<std::byte> encoded(int64_t panel, int64_t begin, int64_t end, const std::byte* rows,
                                 DType source_dtype) const;

  int64_t rows_, cols_, blocks_;
  DType dtype_;
  Tensor first_bytes_;  // [panels + 1] i64
  Tensor bytes_;
};

}  // namespace carousel
