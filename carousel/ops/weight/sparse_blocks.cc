// SPDX-License-Identifier: Apache-2.0
// Packing and unpacking of masked q8 and q4 matrices.
#include "carousel/ops/weight/sparse_blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/ops/weight/row_slices.h"

namespace carousel {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockValues);
constexpr int64_t kRows = SparseBlocks::kPanelRows;
constexpr int kZeroCode = 128;

/// Tells `visit(row, column, code)` every live weight of a panel block, and returns where the next block begins.
///   code: the byte that holds it
template <class Visit>
std::byte* each_live(std::byte* block, const Visit& visit) {
  std::byte* code = block + SparseBlocks::kHeadBytes;
  for (int64_t word = 0; word < SparseBlocks::kMaskBytes / 8; ++word) {
    uint64_t live;
    std::memcpy(&live, block + word * 8, sizeof live);
    for (; live != 0; live &= live - 1) {
      const int64_t cell = word * 64 + std::countr_zero(live);  // of [8][32][4]
      visit(cell / 4 % kRows, cell / (4 * kRows) * 4 + cell % 4, code++);
    }
  }
  return code;
}

std::byte* scale_of(std::byte* block, int64_t row) { return block + SparseBlocks::kMaskBytes + row * 2; }

/// Code i of a row-major block, as it is held here.
std::byte held_code(const std::byte* block, int64_t i, DType dtype) {
  if (dtype == DType::kQ8) return block[2 + i] ^ std::byte{0x80};
  const auto pair = static_cast<int>(block[2 + i % (kBlock / 2)]);
  return static_cast<std::byte>((i < kBlock / 2 ? pair & 15 : pair >> 4) - 8 + kZeroCode);
}

}  // namespace

// One row of x, 4096 x 4096, 4 threads: a dense q4 block of a row is 18 bytes, here 6 and one per live weight, and at a
// third of live weights nothing is left of the gain; q8 has 34. With fewer than one live weight in 32 most of what is
// here is bits that are not set.
bool SparseBlocks::pays(int64_t live, int64_t rows, int64_t cols, DType dtype) {
  const double share = static_cast<double>(live) / (static_cast<double>(rows) * static_cast<double>(cols));
  return is_simple_block(dtype) && 1.0 / 32 <= share && share < (dtype == DType::kQ8 ? 0.5 : 0.25);
}

SparseBlocks::SparseBlocks(const Mask& mask, DType dtype, Memory& memory)
    : rows_(mask.rows()), cols_(mask.cols()), blocks_(ceil_div(mask.cols(), kBlock)), dtype_(dtype) {
  CAROUSEL_ASSERT(is_simple_block(dtype));
  const int64_t panels = ceil_div(rows_, kRows);
  first_bytes_ = Tensor(Shape{panels + 1}, DType::kI64, memory);
  int64_t total = 0;
  bool fits = true;
  for (int64_t panel = 0; panel < panels; ++panel) {
    int64_t live = 0, heads = 0, end = 0;
    for (int64_t r = panel * kRows; r < std::min(rows_, (panel + 1) * kRows); ++r) live += mask.live_in_row(r);
    fits = fits && !__builtin_mul_overflow(blocks_, kHeadBytes, &heads) &&
           !__builtin_add_overflow(heads + live, total, &end);
    total = end;
    if (first_bytes_.raw() != nullptr) first_bytes_.i64()[panel + 1] = total;
  }
  if (!fits || total > INT64_MAX - kReadBeyond) {
    fail(ErrorKind::kShape, "weight: [{}, {}] is too large", rows_, cols_);
  }
  bytes_ = Tensor(Shape{total + kReadBeyond}, DType::kU8, memory);
  if (bytes_.raw() == nullptr) return;
  std::vector<int8_t> signs(static_cast<size_t>(kRows * blocks_ * kBlock));
  for (int64_t panel = 0; panel < panels; ++panel) {
    std::fill(signs.begin(), signs.end(), int8_t{0});
    for (int64_t r = panel * kRows; r < std::min(rows_, (panel + 1) * kRows); ++r) {
      mask.row(r, signs.data() + r % kRows * blocks_ * kBlock);
    }
    std::byte* block = static_cast<std::byte*>(bytes_.raw()) + first_bytes()[panel];
    for (int64_t b = 0; b < blocks_; ++b) {
      int64_t count = 0;
      for (int64_t word = 0; word < kMaskBytes / 8; ++word) {
        uint64_t live = 0;
        for (int64_t bit = 0; bit < 64; ++bit) {
          const int64_t row = word % 2 * 16 + bit / 4, column = b * kBlock + word / 2 * 4 + bit % 4;
          live |= uint64_t{signs[static_cast<size_t>(row * blocks_ * kBlock + column)] != 0} << bit;
        }
        std::memcpy(block + word * 8, &live, sizeof live);
        count += std::popcount(live);
      }
      block += kHeadBytes;
      std::memset(block, kZeroCode, static_cast<size_t>(count));
      block += count;
    }
    CAROUSEL_ASSERT(block == bytes() + first_bytes()[panel + 1]);
  }
}

/// Rows begin to end of a panel encoded in this dtype, zeros where they are masked.
std::vector<std::byte> SparseBlocks::encoded(int64_t panel, int64_t begin, int64_t end, const std::byte* rows,
                                             DType source_dtype) const {
  const auto cols = static_cast<size_t>(cols_), count = static_cast<size_t>(end - begin);
  const size_t source_bytes = dtype_bytes(source_dtype, cols), row_bytes = dtype_bytes(dtype_, cols);
  std::vector<float> values(count * cols), kept(count * cols);
  for (size_t i = 0; i < count; ++i) widen(rows + i * source_bytes, source_dtype, values.data() + i * cols, cols);
  auto* block = static_cast<std::byte*>(bytes_.raw()) + first_bytes()[panel];
  for (int64_t b = 0; b < blocks_; ++b) {
    block = each_live(block, [&](int64_t r, int64_t column, const std::byte*) {
      const auto at = static_cast<size_t>((r - begin) * cols_ + b * kBlock + column);
      if (begin <= r && r < end) kept[at] = values[at];
    });
  }
  std::vector<std::byte> out(count * row_bytes);
  for (size_t i = 0; i < count; ++i) narrow(kept.data() + i * cols, dtype_, out.data() + i * row_bytes, cols);
  return out;
}

// Rows begin to end of a panel.
void SparseBlocks::write_panel(int64_t panel, int64_t begin, int64_t end, const std::byte* rows, DType source_dtype) {
  const auto cols = static_cast<size_t>(cols_);
  const size_t row_bytes = dtype_bytes(dtype_, cols), block_bytes = dtype_bytes(dtype_, kBlockValues);
  std::vector<std::byte> made;
  if (source_dtype != dtype_) {
    made = encoded(panel, begin, end, rows, source_dtype);
    rows = made.data();
  }
  auto* block = static_cast<std::byte*>(bytes_.raw()) + first_bytes()[panel];
  for (int64_t b = 0; b < blocks_; ++b) {
    const auto stored = [&](int64_t r) {
      return rows + static_cast<size_t>(r - begin) * row_bytes + static_cast<size_t>(b) * block_bytes;
    };
    for (int64_t r = begin; r < end; ++r) std::memcpy(scale_of(block, r), stored(r), 2);
    block = each_live(block, [&](int64_t r, int64_t column, std::byte* code) {
      if (begin <= r && r < end) *code = held_code(stored(r), column, dtype_);
    });
  }
}

void SparseBlocks::write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major,
                              DType source_dtype) {
  if (count == 0 || bytes_.raw() == nullptr) return;
  const size_t row_bytes = dtype_bytes(source_dtype, static_cast<size_t>(cols_));
  const int64_t first_panel = first / kRows;
  parallel_for(*stream.pool, ceil_div(first + count, kRows) - first_panel, [&](int64_t i) {
    const int64_t panel_row = (first_panel + i) * kRows;
    const int64_t begin = std::max(first, panel_row), end = std::min(first + count, panel_row + kRows);
    const std::byte* rows = static_cast<const std::byte*>(row_major) + static_cast<size_t>(begin - first) * row_bytes;
    write_panel(first_panel + i, begin - panel_row, end - panel_row, rows, source_dtype);
  });
}

void SparseBlocks::read_rows(int64_t first, int64_t count, float* out) const {
  std::fill(out, out + count * cols_, 0.0f);
  for (int64_t panel = first / kRows; panel < ceil_div(first + count, kRows); ++panel) {
    auto* block = static_cast<std::byte*>(bytes_.raw()) + first_bytes()[panel];
    for (int64_t b = 0; b < blocks_; ++b) {
      std::byte* const head = block;
      block = each_live(block, [&](int64_t r, int64_t column, const std::byte* code) {
        const int64_t row = panel * kRows + r - first;
        if (row < 0 || row >= count) return;
        F16 scale;
        std::memcpy(&scale, scale_of(head, r), sizeof scale);
        out[row * cols_ + b * kBlock + column] =
            to_float(scale) * static_cast<float>(static_cast<int>(*code) - kZeroCode);
      });
    }
  }
}

}  // namespace carousel
