// SPDX-License-Identifier: Apache-2.0
// Rows as a file holds them: writing, widening, and packing panels of mapped ones.
#include "carousel/ops/weight/dense_rows.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <vector>

#include "carousel/core/assert.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/core/slab.h"
#include "carousel/ops/weight/dense_panels.h"
#include "carousel/ops/weight/row_slices.h"
#include "carousel/ops/weight/split_rows.h"

namespace carousel {
namespace {

constexpr int64_t kPanelRows = DensePanels::kPanelRows;

size_t row_bytes(int64_t cols, DType dtype) { return dtype_bytes(dtype, static_cast<size_t>(cols)); }

/// Whether blocks are split (ops/weight/split_rows.h): code of the host reads them as they are in files.
bool splits(DType dtype, const Memory& memory) { return is_block(dtype) && memory.is_apart(); }
size_t row_bytes_in(int64_t cols, DType dtype, const Memory& memory) {
  return splits(dtype, memory) ? static_cast<size_t>(split_row_bytes(cols, dtype)) : row_bytes(cols, dtype);
}

int64_t matrix_bytes(int64_t rows, size_t each) {
  return static_cast<int64_t>(checked_bytes(static_cast<size_t>(rows), each));
}

void widen_rows(const Tensor& bytes, int64_t cols, DType dtype, int64_t first, int64_t count, float* out) {
  CAROUSEL_ASSERT(bytes.raw() != nullptr);
  const size_t each = row_bytes_in(cols, dtype, bytes.memory());
  const Tensor rows = bytes.rows(first * static_cast<int64_t>(each), (first + count) * static_cast<int64_t>(each));
  const Tensor on_host = rows.to_host();
  const auto* row = static_cast<const std::byte*>(on_host.raw());
  std::vector<std::byte> joined(splits(dtype, bytes.memory()) ? row_bytes(cols, dtype) : 0);
  for (int64_t i = 0; i < count; ++i, row += each) {
    if (!joined.empty()) join_blocks(row, cols, dtype, joined.data());
    widen(joined.empty() ? row : joined.data(), dtype, out + i * cols, static_cast<size_t>(cols));
  }
}

/// Copies to a memory that code of the host cannot write, by all threads: one alone reads slower than a bus takes.
void copy_there(ThreadPool& pool, const std::byte* here, Memory& memory, std::byte* there, size_t size_bytes) {
  constexpr size_t kPieceBytes = size_t{1} << 20;
  const auto pieces = static_cast<int64_t>((size_bytes + kPieceBytes - 1) / kPieceBytes);
  std::exception_ptr failed;  // of one of them: tasks must not throw
  std::mutex failing;
  parallel_for(pool, pieces, [&](int64_t i) {
    const size_t at = static_cast<size_t>(i) * kPieceBytes;
    try {
      Memory::copy(Memory::host(), here + at, memory, there + at, std::min(kPieceBytes, size_bytes - at));
    } catch (...) {
      const std::lock_guard lock(failing);
      failed = std::current_exception();
    }
  });
  if (failed) std::rethrow_exception(failed);
}

}  // namespace

DenseRows::DenseRows(int64_t rows, int64_t cols, DType dtype, Memory& memory)
    : cols_(cols), dtype_(dtype), bytes_(slab_bytes(matrix_bytes(rows, row_bytes_in(cols, dtype, memory)), memory)) {}

void DenseRows::write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major,
                           DType source_dtype) {
  if (count == 0 || bytes_.raw() == nullptr) return;
  const bool split = splits(dtype_, bytes_.memory());
  const size_t each = row_bytes_in(cols_, dtype_, bytes_.memory()), as_blocks = row_bytes(cols_, dtype_);
  std::byte* const bytes = static_cast<std::byte*>(bytes_.raw());
  const auto to_write = static_cast<size_t>(count) * each;
  std::byte* const there = bytes + static_cast<size_t>(first) * each;
  if (bytes_.memory().is_apart() && source_dtype == dtype_ && !split) {
    return copy_there(*stream.pool, static_cast<const std::byte*>(row_major), bytes_.memory(), there, to_write);
  }
  std::vector<std::byte> converted(bytes_.memory().is_apart() ? to_write : 0);
  std::byte* const rows_here = bytes_.memory().is_apart() ? converted.data() : there;
  if (converted.empty()) back_pages(*stream.pool, rows_here, to_write);
  each_slice(stream, {first, count, cols_, source_dtype, dtype_}, row_major,
             [&](int64_t begin, int64_t end, const std::byte* rows) {
               std::byte* const to = rows_here + static_cast<size_t>(begin - first) * each;
               if (!split) std::memcpy(to, rows, static_cast<size_t>(end - begin) * each);
               for (size_t i = 0; split && i < static_cast<size_t>(end - begin); ++i) {
                 split_blocks(rows + i * as_blocks, cols_, dtype_, to + i * each);
               }
             });
  if (!converted.empty()) copy_there(*stream.pool, rows_here, bytes_.memory(), there, to_write);
}

void DenseRows::read_rows(int64_t first, int64_t count, float* out) const {
  widen_rows(bytes_, cols_, dtype_, first, count, out);
}

MappedRows::MappedRows(std::shared_ptr<const void> keep, const std::byte* row_major, int64_t rows, int64_t cols,
                       DType dtype)
    : rows_(rows),
      cols_(cols),
      dtype_(dtype),
      bytes_(Tensor::over(std::move(keep), row_major, Shape{matrix_bytes(rows, row_bytes(cols, dtype))}, DType::kU8)) {}

void MappedRows::pack_panels(const Stream& stream, int64_t first, int64_t count, void* panels) const {
  CAROUSEL_ASSERT(first % kPanelRows == 0 && 0 <= count && count <= rows_ - first);
  const size_t each = row_bytes(cols_, dtype_), panel_bytes = DensePanels::panel_bytes(cols_, dtype_);
  const std::byte* const source = static_cast<const std::byte*>(bytes_.raw()) + static_cast<size_t>(first) * each;
  std::byte* const out = static_cast<std::byte*>(panels);
  parallel_for(*stream.pool, ceil_div(count, kPanelRows), [&](int64_t i) {
    std::byte* const panel = out + static_cast<size_t>(i) * panel_bytes;
    const int64_t rows = std::min(kPanelRows, count - i * kPanelRows);
    if (rows < kPanelRows || (dtype_ == DType::kBF16 && cols_ % 2 != 0)) {
      std::memset(panel, 0, panel_bytes);  // padding is zero
    }
    pack_panel_rows(panel, 0, rows, source + static_cast<size_t>(i * kPanelRows) * each, cols_, dtype_);
  });
}

void MappedRows::read_rows(int64_t first, int64_t count, float* out) const {
  widen_rows(bytes_, cols_, dtype_, first, count, out);
}

}  // namespace carousel
