// SPDX-License-Identifier: Apache-2.0
// Signs of a matrix as a mask, and the zeroing of masked values, floats or blocks.
#include "carousel/ops/weight/mask.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "carousel/core/error.h"

namespace carousel {
namespace {

/// One stored value: whether it is zero or below, and zeroing it.
template <class Word>
class FloatCell {
 public:
  FloatCell(std::byte* row, int64_t k) : at_(row + static_cast<size_t>(k) * sizeof(Word)) {
    std::memcpy(&word_, at_, sizeof word_);
  }
  bool zero() const { return static_cast<Word>(word_ << 1) == 0; }
  bool negative() const { return (word_ >> (8 * sizeof(Word) - 1)) != 0; }
  void clear() { std::memset(at_, 0, sizeof(Word)); }

 private:
  std::byte* at_;
  Word word_;
};

/// A block is an f16 scale and the codes: of q8 a signed byte each; of q4 a byte's low half for one of the first 16
/// values and its high half for the one 16 on, each q + 8 (core/quant_blocks.h).
template <bool kFourBits>
class CodeCell {
 public:
  CodeCell(std::byte* row, int64_t k) {
    constexpr int64_t kValues = static_cast<int64_t>(kBlockValues);
    std::byte* const block = row + static_cast<size_t>(k / kValues) * dtype_bytes(type(), kBlockValues);
    const int64_t i = k % kValues;
    std::memcpy(&scale_, block, sizeof scale_);
    high_ = kFourBits && i >= kValues / 2;
    at_ = block + sizeof scale_ + (high_ ? i - kValues / 2 : i);
  }
  bool zero() const { return code() == 0 || static_cast<uint16_t>(scale_ << 1) == 0; }
  bool negative() const { return (code() < 0) != ((scale_ >> 15) != 0); }
  void clear() {
    if (!kFourBits) *at_ = std::byte{0};
    if (kFourBits) *at_ = high_ ? (*at_ & std::byte{0x0F}) | std::byte{0x80} : (*at_ & std::byte{0xF0}) | std::byte{8};
  }

 private:
  static constexpr DType type() { return kFourBits ? DType::kQ4 : DType::kQ8; }
  int code() const {
    if (!kFourBits) return static_cast<int8_t>(*at_);
    return (static_cast<int>(*at_) >> (high_ ? 4 : 0) & 15) - 8;
  }

  uint16_t scale_;
  bool high_;
  std::byte* at_;
};

/// One row. Returns the first column of the wrong sign, or -1.
template <class Cell>
int64_t clear_row(const int8_t* signs, int64_t cols, bool polarity, std::byte* row, int64_t* cleared) {
  int64_t wrong = -1;
  for (int64_t k = 0; k < cols; ++k) {
    Cell cell(row, k);
    if (signs[k] == 0) {
      *cleared += cell.zero() ? 0 : 1;
      cell.clear();
    } else if (polarity && wrong < 0 && !cell.zero() && cell.negative() != (signs[k] < 0)) {
      wrong = k;
    }
  }
  return wrong;
}

using ClearRow = int64_t (*)(const int8_t*, int64_t, bool, std::byte*, int64_t*);
ClearRow clear_row_of(DType dtype) {
  if (dtype == DType::kQ8) return clear_row<CodeCell<false>>;
  if (dtype == DType::kQ4) return clear_row<CodeCell<true>>;
  return dtype == DType::kF32 ? clear_row<FloatCell<uint32_t>> : clear_row<FloatCell<uint16_t>>;
}

}  // namespace

int64_t Mask::live_in_row(int64_t r) const {
  std::vector<int8_t> signs(static_cast<size_t>(cols_));
  row(r, signs.data());
  return cols_ - std::count(signs.begin(), signs.end(), int8_t{0});
}

int64_t Mask::live() const {
  int64_t live = 0;
  for (int64_t r = 0; r < rows_; ++r) live += live_in_row(r);
  return live;
}

MatrixMask::MatrixMask(int64_t rows, int64_t cols, bool polarity, std::vector<int8_t> signs)
    : Mask(rows, cols, polarity), signs_(std::move(signs)) {
  CAROUSEL_ASSERT(static_cast<int64_t>(signs_.size()) == rows * cols);
}

void MatrixMask::row(int64_t r, int8_t* signs) const { std::copy_n(signs_.begin() + r * cols(), cols(), signs); }

void impose_mask(const Mask& mask, float* values) {
  std::vector<int8_t> signs(static_cast<size_t>(mask.cols()));
  for (int64_t r = 0; r < mask.rows(); ++r) {
    mask.row(r, signs.data());
    for (const int8_t sign : signs) {
      if (sign == 0) {
        *values = 0.0f;
      } else if (mask.polarity()) {
        *values = std::copysign(*values, static_cast<float>(sign));
      }
      ++values;
    }
  }
}

MaskFindings clear_masked(const Stream& stream, const Mask& mask, int64_t first, int64_t count, DType dtype,
                          std::byte* rows) {
  constexpr int64_t kTaskRows = 64;
  const size_t row_bytes = dtype_bytes(dtype, static_cast<size_t>(mask.cols()));
  const ClearRow clear = clear_row_of(dtype);
  std::atomic<int64_t> cleared{0}, wrong{INT64_MAX};
  const auto clear_rows = [&](int64_t task) {
    std::vector<int8_t> signs(static_cast<size_t>(mask.cols()));
    int64_t own = 0;
    for (int64_t r = task * kTaskRows; r < std::min(count, (task + 1) * kTaskRows); ++r) {
      mask.row(first + r, signs.data());
      std::byte* const row = rows + static_cast<size_t>(r) * row_bytes;
      const int64_t col = clear(signs.data(), mask.cols(), mask.polarity(), row, &own);
      const int64_t element = (first + r) * mask.cols() + col;
      int64_t seen = wrong.load();
      while (col >= 0 && element < seen && !wrong.compare_exchange_weak(seen, element)) {
      }
    }
    cleared += own;
  };
  parallel_for(*stream.pool, (count + kTaskRows - 1) / kTaskRows, clear_rows);
  MaskFindings findings{cleared.load()};
  if (wrong.load() != INT64_MAX) findings.wrong_sign = wrong.load();
  return findings;
}

}  // namespace carousel
