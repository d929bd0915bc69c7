// SPDX-License-Identifier: Apache-2.0
// Packing a row-major matrix into panels is a transposition of cells: one element (f32, f16) or a pair of
// neighbouring columns (bf16), four codes of a block (q8) or four bytes of pairs (q4). It runs at the speed of memory
// in plain code, so there is one copy for every machine.
#include "carousel/ops/weight/weight.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/core/slab.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/ops/weight/transpose_cells.h"

namespace carousel {
namespace {

constexpr int64_t kPanelRows = Weight::kPanelRows;
// How far ahead in each of the 32 rows: so many streams are too many for the hardware.
constexpr size_t kPrefetchBytes = 512;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t checked_product(size_t a, size_t b) {
  size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) fail(ErrorKind::kShape, "weight: {} x {} bytes overflows", a, b);
  return product;
}

size_t storage_bytes(int64_t rows, int64_t cols, DType dtype, Weight::Layout layout) {
  if (layout == Weight::Layout::kRows) {
    return checked_product(static_cast<size_t>(rows), dtype_bytes(dtype, static_cast<size_t>(cols)));
  }
  return checked_product(static_cast<size_t>(ceil_div(rows, kPanelRows)), Weight::panel_bytes(cols, dtype));
}

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
  const int64_t panel_block_bytes = dtype == DType::kQ8 ? Weight::kQ8PanelBlockBytes : Weight::kQ4PanelBlockBytes;
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

void pack_rows(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols, DType dtype) {
  if (is_block(dtype)) return pack_block_rows(panel, begin, end, rows, cols, dtype);
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

/// `count` rows of one dtype as rows of another, by way of f32.
std::vector<std::byte> convert_rows(const std::byte* rows, DType from, int64_t count, int64_t cols, DType to) {
  const size_t row_values = static_cast<size_t>(cols);
  const size_t from_bytes = dtype_bytes(from, row_values), to_bytes = dtype_bytes(to, row_values);
  std::vector<float> values(row_values);
  std::vector<std::byte> out(static_cast<size_t>(count) * to_bytes);
  for (size_t r = 0; r < static_cast<size_t>(count); ++r) {
    widen(rows + r * from_bytes, from, values.data(), row_values);
    narrow(values.data(), to, out.data() + r * to_bytes, row_values);
  }
  return out;
}

}  // namespace

size_t Weight::panel_bytes(int64_t cols, DType dtype) {
  if (is_block(dtype)) {
    return checked_product(static_cast<size_t>(ceil_div(cols, static_cast<int64_t>(kBlockValues))),
                           dtype == DType::kQ8 ? kQ8PanelBlockBytes : kQ4PanelBlockBytes);
  }
  const size_t padded = static_cast<size_t>(dtype == DType::kBF16 ? cols + cols % 2 : cols);
  return checked_product(padded, static_cast<size_t>(kPanelRows) * dtype_size(dtype));
}

Weight::Weight(int64_t rows, int64_t cols, DType dtype, Layout layout, Memory& memory)
    : rows_(rows), cols_(cols), dtype_(dtype), layout_(layout), memory_(&memory) {
  if (rows < 1 || cols < 1)
    fail(ErrorKind::kShape, "weight: got [{}, {}], expected at least one row and column", rows, cols);
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16 && !is_block(dtype)) {
    fail(ErrorKind::kShape, "weight: got {}, expected F32, F16, BF16, Q8 or Q4", dtype_name(dtype));
  }
  // Half the address space: what is left out is refused before any signed arithmetic on it.
  constexpr int64_t kMaxDim = INT64_MAX / 1024;
  if (rows > kMaxDim || cols > kMaxDim) fail(ErrorKind::kShape, "weight: [{}, {}] is too large", rows, cols);
  const size_t size_bytes = storage_bytes(rows, cols, dtype, layout);
  if (size_bytes > static_cast<size_t>(INT64_MAX)) fail(ErrorKind::kShape, "weight: [{}, {}] is too large", rows, cols);
  storage_ = slab_bytes(static_cast<int64_t>(size_bytes), memory);
}

Weight::Weight(const Mask& mask, DType dtype, Memory& memory, bool byte_expand) {
  const int64_t live = mask.live();
  const bool of_blocks = SparseBlocks::pays(live, mask.rows(), mask.cols(), dtype);
  const bool blocks = byte_expand && of_blocks;
  if (!blocks && !SparsePanels::pays(live, mask.rows(), mask.cols())) {
    *this = Weight(mask.rows(), mask.cols(), dtype, Layout::kPanels, memory);
    return;
  }
  *this =
      Weight(mask.rows(), mask.cols(), dtype, Layout::kPanels, Memory::meta());  // its checks, and nothing allocated
  storage_ = Tensor();
  memory_ = &memory;
  if (blocks) {
    sparse_blocks_ = std::make_shared<SparseBlocks>(mask, dtype, memory);
    return;
  }
  sparse_ = std::make_shared<SparsePanels>(mask, is_block(dtype) ? DType::kF16 : dtype, memory,
                                           of_blocks ? std::optional(dtype) : std::nullopt);
}

Weight Weight::over(std::shared_ptr<const void> keep, const std::byte* row_major, int64_t rows, int64_t cols,
                    DType dtype) {
  Weight weight(rows, cols, dtype, Layout::kRows, Memory::meta());  // its checks, and nothing allocated
  weight.storage_ = Tensor::over(std::move(keep), row_major, weight.storage_.shape(), DType::kU8);
  weight.memory_ = &Memory::host();
  weight.in_place_ = true;
  return weight;
}

size_t Weight::size_bytes() const {
  if (!defined()) return 0;
  const size_t held = sparse_          ? sparse_->size_bytes()
                      : sparse_blocks_ ? sparse_blocks_->size_bytes()
                                       : storage_.size_bytes();
  return held + (bias.defined() ? bias.size_bytes() : 0);
}

void Weight::write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype) {
  CAROUSEL_ASSERT(0 <= first && 0 <= count && count <= rows_ - first && !in_place_);
  if (!is_float(source_dtype) && !is_block(source_dtype)) {
    fail(ErrorKind::kShape, "weight: got rows of {}, expected a float or block type", dtype_name(source_dtype));
  }
  if (sparse_) return sparse_->write_rows(stream, first, count, row_major, source_dtype);
  if (sparse_blocks_) return sparse_blocks_->write_rows(stream, first, count, row_major, source_dtype);
  if (count == 0 || storage_.raw() == nullptr) return;
  std::byte* const bytes = static_cast<std::byte*>(storage_.raw());
  const std::byte* const source = static_cast<const std::byte*>(row_major);
  const auto cols = static_cast<size_t>(cols_);
  const size_t row_bytes = dtype_bytes(dtype_, cols);
  const size_t source_row_bytes = dtype_bytes(source_dtype, cols);
  const int64_t first_panel = first / kPanelRows;
  const int64_t panels = ceil_div(first + count, kPanelRows) - first_panel;
  const auto write_panel = [&](int64_t i) {
    const int64_t panel_row = (first_panel + i) * kPanelRows;
    const int64_t begin = std::max(first, panel_row);
    const int64_t end = std::min(first + count, panel_row + kPanelRows);
    const std::byte* rows = source + static_cast<size_t>(begin - first) * source_row_bytes;
    std::vector<std::byte> converted;
    if (source_dtype != dtype_) {
      converted = convert_rows(rows, source_dtype, end - begin, cols_, dtype_);
      rows = converted.data();
    }
    if (layout_ == Layout::kRows) {
      std::memcpy(bytes + static_cast<size_t>(begin) * row_bytes, rows, static_cast<size_t>(end - begin) * row_bytes);
    } else {
      pack_rows(bytes + static_cast<size_t>(first_panel + i) * panel_bytes(cols_, dtype_), begin - panel_row,
                end - panel_row, rows, cols_, dtype_);
    }
  };
  parallel_for(*stream.pool, panels, write_panel);
}

void Weight::pack_panels(const Stream& stream, int64_t first, int64_t count, void* panels) const {
  CAROUSEL_ASSERT(layout_ == Layout::kRows && first % kPanelRows == 0 && 0 <= count && count <= rows_ - first);
  if (panels == nullptr) return;  // on meta
  const size_t row_bytes = dtype_bytes(dtype_, static_cast<size_t>(cols_)), size_bytes = panel_bytes(cols_, dtype_);
  const std::byte* const source =
      static_cast<const std::byte*>(storage_.raw()) + static_cast<size_t>(first) * row_bytes;
  std::byte* const out = static_cast<std::byte*>(panels);
  parallel_for(*stream.pool, ceil_div(count, kPanelRows), [&](int64_t i) {
    std::byte* const panel = out + static_cast<size_t>(i) * size_bytes;
    const int64_t rows = std::min(kPanelRows, count - i * kPanelRows);
    if (rows < kPanelRows || (dtype_ == DType::kBF16 && cols_ % 2 != 0))
      std::memset(panel, 0, size_bytes);  // what pads is zero
    pack_rows(panel, 0, rows, source + static_cast<size_t>(i * kPanelRows) * row_bytes, cols_, dtype_);
  });
}

void Weight::read_rows(int64_t first, int64_t count, float* out) const {
  CAROUSEL_ASSERT(0 <= first && 0 <= count && count <= rows_ - first);
  if (sparse_) return sparse_->read_rows(first, count, out);
  if (sparse_blocks_) return sparse_blocks_->read_rows(first, count, out);
  CAROUSEL_ASSERT(storage_.raw() != nullptr);
  const std::byte* const bytes = static_cast<const std::byte*>(storage_.raw());
  if (layout_ == Layout::kRows) {
    const size_t row_bytes = dtype_bytes(dtype_, static_cast<size_t>(cols_));
    for (int64_t i = 0; i < count; ++i) {
      widen(bytes + static_cast<size_t>(first + i) * row_bytes, dtype_, out + i * cols_, static_cast<size_t>(cols_));
    }
    return;
  }
  for (int64_t row = first; row < first + count; ++row, out += cols_) {
    const std::byte* const panel = bytes + static_cast<size_t>(row / kPanelRows) * panel_bytes(cols_, dtype_);
    const int64_t r = row % kPanelRows;
    if (dtype_ == DType::kF32) {
      unpack_row<float>(panel, r, cols_, out);
    } else if (dtype_ == DType::kF16) {
      unpack_row<F16>(panel, r, cols_, out);
    } else if (is_block(dtype_)) {
      unpack_block_row(panel, r, cols_, dtype_, out);
    } else {
      unpack_bf16_row(panel, r, cols_, out);
    }
  }
}

}  // namespace carousel
