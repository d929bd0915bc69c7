// SPDX-License-Identifier: Apache-2.0
// How a Weight holds a matrix most of whose weights are masked: the live ones alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"
#include "carousel/ops/weight/mask.h"

namespace carousel {

/// Panels of 32 rows (sliced ELLPACK, Monakov et al., HiPEAC 2010). A panel is a list of steps; step l holds, for each
/// of its rows, the column and the value of the row's l-th live weight, columns ascending:
///   {Index columns[32]; Value values[32]}, Index u16 up to 65536 columns, else u32; Value f32, f16 or bf16
/// A panel has as many steps as its fullest row; what a row does not need is padding, and never multiplied.
class SparsePanels {
 public:
  static constexpr int64_t kPanelRows = 32;

  /// Zero weights where `mask` is not; on kMeta sizes only. With `blocks` (q8 or q4) the values written are rounded to
  /// those of such blocks with zeros, which other machines hold and files store, and these to `dtype`.
  SparsePanels(const Mask& mask, DType dtype, Memory& memory, std::optional<DType> blocks = {});
  /// Whether this many live weights are better held so than as dense panels with zeros.
  static bool pays(int64_t live, int64_t rows, int64_t cols);

  DType dtype() const { return dtype_; }
  size_t size_bytes() const { return steps_.size_bytes() + first_steps_.size_bytes() + counts_.size_bytes(); }
  bool wide() const { return wide_; }  // columns are u32
  const std::byte* steps() const { return static_cast<const std::byte*>(steps_.raw()); }
  const int64_t* first_steps() const { return first_steps_.i64(); }  // [panels + 1]
  const int32_t* counts() const { return counts_.i32(); }            // [panels * 32]: live weights of every row

  /// Weight::write_rows, which takes the live values of rows of any dtype, and read_rows, which gives zeros elsewhere.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype);
  void read_rows(int64_t first, int64_t count, float* out) const;

 private:
  size_t step_bytes() const { return static_cast<size_t>(kPanelRows) * ((wide_ ? 4 : 2) + dtype_size(dtype_)); }
  std::vector<float> widened(int64_t row, const std::byte* values, DType source_dtype) const;
  std::byte* cell(int64_t row, int64_t step, bool value) const;
  int64_t column(int64_t row, int64_t step) const;

  int64_t rows_, cols_;
  DType dtype_;
  std::optional<DType> blocks_;
  bool wide_;
  Tensor first_steps_;  // [panels + 1] i64
  Tensor counts_;       // [panels * 32] i32
  Tensor steps_;        // bytes
};

}  // namespace carousel
