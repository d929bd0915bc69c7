// SPDX-License-Identifier: Apache-2.0
// Packing a row-major matrix into panels is a transposition of cells: one element (f32, f16) or a pair of
// neighbouring columns (bf16), four codes of a block (q8) or four bytes of pairs (q4). It runs at the speed of memory
// in plain code, so there is one copy for every machine.
#include "carousel/ops/weight/dense_panels.h"

#include <algorithm>
#include <cstring>

#include "carousel/core/assert.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/core/slab.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/ops/weight/block_panels.h"
#include "carousel/ops/weight/row_slices.h"
#include "carousel/ops/weight/transpose_cells.h"

namespace carousel {
namespace {

constexpr int64_t kPanelRows = DensePanels::kPanelRows;
// How far ahead in each of the 32 rows: so many streams are too many for the hardware.
constexpr size_t kPrefetchBytes = 512;

/// Rows [begin, end) of one panel from row-major `rows` (of row `begin` on), `cells` cells of type Cell each, and
/// rows row_bytes apart.
template <class Cell>
void pack_cells(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, size_t row_bytes, int64_t cells) {
  constexpr int64_t kBlock = 64 / sizeof(Cell);  // one cache line of every row: 32 lines in, the block's lines out
  constexpr int64_t kVec = 16 / sizeof(Cell);
  for (int64_t first = 0; first < cells; first += kBlock) {
    const int64_t last = std::min(first + kBlock, cells);
    int64_t done = begin;
    for (; last - first == kBlock && done + 4 <= end; done += 4) {
      const std::byte* const row = rows + static_cast<size_t>(done - begin) * row_bytes;
      for (size_t r = 0; r < 4; ++r) {
        cpu::prefetch_far(row + r * row_bytes + static_cast<size_t>(first) * sizeof(Cell) + kPrefetchBytes);
      }
      for (int64_t i = first; i < last; i += kVec) {
        const std::byte* const from = row + static_cast<size_t>(i) * sizeof(Cell);
        std::byte* const to = panel + static_cast<size_t>(i * kPanelRows + done) * sizeof(Cell);
        if constexpr (sizeof(Cell) == 4) {
          transpose_cells(from, row_bytes, to, kPanelRows * sizeof(Cell));
        } else {
          transpose_half_cells(from, row_bytes, to, kPanelRows * sizeof(Cell));
        }
      }
    }
    for (int64_t r = done; r < end; ++r) {
      const std::byte* row = rows + static_cast<size_t>(r - begin) * row_bytes;
      for (int64_t i = first; i < last; ++i) {
        std::memcpy(panel + static_cast<size_t>(i * kPanelRows + r) * sizeof(Cell),
                    row + static_cast<size_t>(i) * sizeof(Cell), sizeof(Cell));
      }
    }
  }
}

constexpr uint32_t kSignBits = 0x80808080;  // of four bytes: turns q into q + 128 and back

/// Where block b of row r lies within a panel: cells of four columns `kPanelRows * 4` bytes apart, and the scale.
struct BlockPlace {
  size_t cells, scale;
};
BlockPlace block_place(int64_t r, int64_t b, DType dtype) {
  const int64_t panel_block_bytes = dtype == DType::kQ8 ? DensePanels::kQ8BlockBytes : DensePanels::kQ4BlockBytes;
  return {static_cast<size_t>(b * panel_block_bytes + r * 4),
          static_cast<size_t>((b + 1) * panel_block_bytes - 2 * (kPanelRows - r))};
}

void pack_block_rows(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols, DType dtype) {
  const int64_t blocks = ceil_div(cols, static_cast<int64_t>(kBlockValues));
  const size_t block_bytes = dtype_bytes(dtype, kBlockValues);
  const uint32_t sign_bits = dtype == DType::kQ8 ? kSignBits : 0;
  const size_t row_bytes = static_cast<size_t>(blocks) * block_bytes;
  int64_t done = begin;
  for (; done + 4 <= end; done += 4) {
    const std::byte* block = rows + static_cast<size_t>(done - begin) * row_bytes;
    for (int64_t b = 0; b < blocks; ++b, block += block_bytes) {
      const BlockPlace place = block_place(done, b, dtype);
      for (size_t r = 0; r < 4; ++r) std::memcpy(panel + place.scale + 2 * r, block + r * row_bytes, 2);
      std::byte* cell = panel + place.cells;
      for (size_t i = 2; i < block_bytes; i += 16, cell += 4 * kPanelRows * 4) {
        transpose_cells(block + i, row_bytes, cell, kPanelRows * 4, sign_bits);
      }
    }
  }
  const std::byte* block = rows + static_cast<size_t>(done - begin) * row_bytes;
  for (int64_t r = done; r < end; ++r) {
    for (int64_t b = 0; b < blocks; ++b, block += block_bytes) {
      const BlockPlace place = block_place(r, b, dtype);
      std::memcpy(panel + place.scale, block, 2);
      std::byte* cell = panel + place.cells;
      for (size_t i = 2; i < block_bytes; i += 4, cell += kPanelRows * 4) {
        uint32_t codes;
        std::memcpy(&codes, block + i, sizeof codes);
        codes ^= sign_bits;
        std::memcpy(cell, &codes, sizeof codes);
      }
    }
  }
}

void unpack_block_row(const std::byte* panel, int64_t r, int64_t cols, DType dtype, float* out) {
  const int64_t block_values = static_cast<int64_t>(kBlockValues);
  const size_t block_bytes = dtype_bytes(dtype, kBlockValues);
  const uint32_t sign_bits = dtype == DType::kQ8 ? kSignBits : 0;
  std::byte block[kQ8BlockBytes];
  for (int64_t k = 0; k < cols; k += block_values) {
    const BlockPlace place = block_place(r, k / block_values, dtype);
    std::memcpy(block, panel + place.scale, 2);
    const std::byte* cell = panel + place.cells;
    for (size_t i = 2; i < block_bytes; i += 4, cell += kPanelRows * 4) {
      uint32_t codes;
      std::memcpy(&codes, cell, sizeof codes);
      codes ^= sign_bits;
      std::memcpy(block + i, &codes, sizeof codes);
    }
    decode_blocks(block, dtype, out + k, static_cast<size_t>(std::min(block_values, cols - k)));
  }
}

/// Row r of a panel, widened. Columns are `step` bytes apart (bf16: pairs are).
template <class Element>
void unpack_row(const std::byte* panel, int64_t r, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; ++k) {
    Element element;
    std::memcpy(&element, panel + static_cast<size_t>(k * kPanelRows + r) * sizeof element, sizeof element);
    if constexpr (sizeof(Element) == sizeof(float)) {
      out[k] = element;
    } else {
      out[k] = to_float(element);
    }
  }
}

void unpack_bf16_row(const std::byte* panel, int64_t r, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; ++k) {
    BF16 element;
    std::memcpy(&element, panel + static_cast<size_t>(((k / 2) * kPanelRows + r) * 2 + k % 2) * 2, 2);
    out[k] = to_float(element);
  }
}

}  // namespace

void pack_panel_rows(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols, DType dtype) {
  if (is_simple_block(dtype)) return pack_block_rows(panel, begin, end, rows, cols, dtype);
  if (is_block(dtype)) return pack_block_panel(panel, begin, end, rows, cols, dtype);
  const size_t row_bytes = static_cast<size_t>(cols) * dtype_size(dtype);
  if (dtype == DType::kF32) return pack_cells<uint32_t>(panel, begin, end, rows, row_bytes, cols);
  if (dtype == DType::kF16) return pack_cells<uint16_t>(panel, begin, end, rows, row_bytes, cols);
  pack_cells<uint32_t>(panel, begin, end, rows, row_bytes, cols / 2);
  if (cols % 2 == 0) return;
  for (int64_t r = begin; r < end; ++r) {  // the last column pairs with zero padding
    std::memcpy(panel + static_cast<size_t>((cols / 2) * kPanelRows + r) * 4,
                rows + static_cast<size_t>(r - begin + 1) * row_bytes - 2, 2);
  }
}

void pack_transposed_panel(float* panel, const float* matrix, int64_t rows, int64_t stride, int64_t count) {
  for (int64_t i = 0; i < rows; ++i, panel += kPanelRows, matrix += stride) {
    if (count == kPanelRows) {
      std::memcpy(panel, matrix, sizeof(float) * kPanelRows);
    } else {
      for (int64_t j = 0; j < kPanelRows; ++j) panel[j] = j < count ? matrix[j] : 0.0f;
    }
  }
}

namespace {

/// to_bf16, in the bits of f32 and where compilers see it.
inline uint32_t rounded_bits(const float* value) {
  uint32_t bits;
  std::memcpy(&bits, value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x40u : rounded;
}

/// As pack_panel_rows in bf16, from rows of f32: some columns are rounded at a time.
void round_panel_rows(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols) {
  constexpr int64_t kColumns = 64;
  uint16_t rounded[kPanelRows * kColumns];
  for (int64_t k = 0; k < cols; k += kColumns) {
    const int64_t count = std::min(kColumns, cols - k);
    for (int64_t r = 0; r < end - begin; ++r) {
      float values[kColumns];
      std::memcpy(values, rows + static_cast<size_t>(r * cols + k) * sizeof(float),
                  static_cast<size_t>(count) * sizeof(float));
      for (int64_t i = 0; i < count; ++i) rounded[r * count + i] = static_cast<uint16_t>(rounded_bits(values + i));
    }
    pack_panel_rows(panel + static_cast<size_t>(k * kPanelRows) * sizeof(BF16), begin, end,
                    reinterpret_cast<const std::byte*>(rounded), count, DType::kBF16);
  }
}

/// One panel of a transpose in bf16: [ceil(rows / 2)][kPanelRows] pairs of rows of `matrix`, else as
/// pack_transposed_panel.
void round_transposed_panel(uint32_t* panel, const float* matrix, int64_t rows, int64_t stride, int64_t count) {
  for (int64_t i = 0; i < rows; i += 2, panel += kPanelRows, matrix += 2 * stride) {
    for (int64_t j = 0; j < count; ++j) panel[j] = rounded_bits(matrix + j);
    for (int64_t j = 0; j < count && i + 1 < rows; ++j) panel[j] |= rounded_bits(matrix + stride + j) << 16;
  }
}

}  // namespace

size_t DensePanels::panel_bytes(int64_t cols, DType dtype) {
  if (is_block(dtype)) return checked_bytes(dtype_bytes(dtype, static_cast<size_t>(cols)), kPanelRows);
  const size_t padded = static_cast<size_t>(dtype == DType::kBF16 ? cols + cols % 2 : cols);
  return checked_bytes(padded, static_cast<size_t>(kPanelRows) * dtype_size(dtype));
}

DensePanels::DensePanels(int64_t rows, int64_t cols, DType dtype, Memory& memory)
    : rows_(rows), cols_(cols), dtype_(dtype) {
  const size_t bytes = checked_bytes(static_cast<size_t>(ceil_div(rows, kPanelRows)), panel_bytes(cols, dtype));
  panels_ = slab_bytes(static_cast<int64_t>(bytes), memory);
}

void DensePanels::back_rows(const Stream& stream, int64_t first, int64_t count) const {
  if (count == 0 || panels_.raw() == nullptr) return;
  const size_t bytes = panel_bytes(cols_, dtype_);
  const int64_t first_panel = first / kPanelRows, end = ceil_div(first + count, kPanelRows);
  back_pages(*stream.pool, static_cast<std::byte*>(panels_.raw()) + static_cast<size_t>(first_panel) * bytes,
             static_cast<size_t>(end - first_panel) * bytes);
}

void DensePanels::write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major,
                             DType source_dtype) {
  if (count == 0 || panels_.raw() == nullptr) return;
  std::byte* const panels = static_cast<std::byte*>(panels_.raw());
  const size_t bytes = panel_bytes(cols_, dtype_);
  const bool rounds = source_dtype == DType::kF32 && dtype_ == DType::kBF16;  // of a trained weight, after every step
  each_slice(stream, {first, count, cols_, source_dtype, rounds ? source_dtype : dtype_}, row_major,
             [&](int64_t begin, int64_t end, const std::byte* rows) {
               const int64_t index = begin / kPanelRows, panel_row = index * kPanelRows;
               std::byte* const panel = panels + static_cast<size_t>(index) * bytes;
               if (rounds) return round_panel_rows(panel, begin - panel_row, end - panel_row, rows, cols_);
               pack_panel_rows(panel, begin - panel_row, end - panel_row, rows, cols_, dtype_);
             });
}

void DensePanels::write_transpose(const Stream& stream, const float* matrix) {
  CAROUSEL_ASSERT(dtype_ == DType::kF32 || dtype_ == DType::kBF16);
  if (panels_.raw() == nullptr) return;
  auto* const panels = static_cast<std::byte*>(panels_.raw());
  const size_t bytes = panel_bytes(cols_, dtype_);
  parallel_for(*stream.pool, ceil_div(rows_, kPanelRows), [&](int64_t p) {
    const int64_t first = p * kPanelRows, count = std::min(kPanelRows, rows_ - first);
    void* const panel = panels + static_cast<size_t>(p) * bytes;
    if (dtype_ == DType::kBF16) {
      round_transposed_panel(static_cast<uint32_t*>(panel), matrix + first, cols_, rows_, count);
    } else {
      pack_transposed_panel(static_cast<float*>(panel), matrix + first, cols_, rows_, count);
    }
  });
}

void DensePanels::read_rows(int64_t first, int64_t count, float* out) const {
  CAROUSEL_ASSERT(panels_.raw() != nullptr);
  const std::byte* const bytes = static_cast<const std::byte*>(panels_.raw());
  for (int64_t row = first; row < first + count; ++row, out += cols_) {
    const std::byte* const panel = bytes + static_cast<size_t>(row / kPanelRows) * panel_bytes(cols_, dtype_);
    const int64_t r = row % kPanelRows;
    if (dtype_ == DType::kF32) {
      unpack_row<float>(panel, r, cols_, out);
    } else if (dtype_ == DType::kF16) {
      unpack_row<F16>(panel, r, cols_, out);
    } else if (is_block(dtype_) && !is_simple_block(dtype_)) {
      unpack_block_panel_row(panel, r, cols_, dtype_, out);
    } else if (is_block(dtype_)) {
      unpack_block_row(panel, r, cols_, dtype_, out);
    } else {
      unpack_bf16_row(panel, r, cols_, out);
    }
  }
}

}  // namespace carousel
