// SPDX-License-Identifier: Apache-2.0
// The wiring of a projection: which weights of its matrix there are, and the sign of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/dtype.h"
#include "carousel/core/stream.h"

namespace carousel {

/// A sparsity mask [rows, cols], given row by row so that large ones need not be held. Under polarity every live weight
/// keeps its sign: those of sign -1 are never above zero, those of sign 1 never below.
class Mask {
 public:
  Mask(int64_t rows, int64_t cols, bool polarity) : rows_(rows), cols_(cols), polarity_(polarity) {}
  virtual ~Mask() = default;
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool polarity() const { return polarity_; }

  /// Row r into `signs` [cols]: -1, 1, or 0 where there is no weight. Any thread may ask.
  virtual void row(int64_t r, int8_t* signs) const = 0;
  /// Its entries that are not 0.
  virtual int64_t live_in_row(int64_t r) const;
  int64_t live() const;

 private:
  int64_t rows_, cols_;
  bool polarity_;
};

/// A mask held whole.
class MatrixMask : public Mask {
 public:
  MatrixMask(int64_t rows, int64_t cols, bool polarity, std::vector<int8_t> signs);
  void row(int64_t r, int8_t* signs) const override;

 private:
  std::vector<int8_t> signs_;  // [rows, cols]
};

/// The wirings of one block, by projection.
class Wirings {
 public:
  virtual ~Wirings() = default;
  struct Found {
    std::shared_ptr<const Mask> mask;  // null: the projection is not wired
    bool stored = false;               // the checkpoint's "<name>.mask" counts, the mask is what a fresh model gets
  };
  /// The wiring of the projection `name` [rows, cols], a name relative to the block; `full_name` is its canonical one.
  virtual Found find(const std::string& name, const std::string& full_name, int64_t rows, int64_t cols) = 0;
};

/// Makes freshly drawn values [rows, cols] obey: zero where masked, and |w| under the sign.
void impose_mask(const Mask& mask, float* values);

/// What clear_masked found in rows that were stored.
struct MaskFindings {
  int64_t cleared = 0;                     // values other than zero where there is no weight
  std::optional<int64_t> wrong_sign = {};  // the first element, counted from row 0 of the matrix, against its polarity
};
/// Zeroes the masked values of rows first to first + count.
///   rows [count, cols] f32, f16, bf16, or blocks of q8 or q4, whose scales stay; of any alignment
MaskFindings clear_masked(const Stream& stream, const Mask& mask, int64_t first, int64_t count, DType dtype,
                          std::byte* rows);

}  // namespace carousel
