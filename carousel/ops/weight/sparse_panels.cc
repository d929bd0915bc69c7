// SPDX-License-Identifier: Apache-2.0
// Packing and unpacking of the live weights of a masked matrix.
#include "carousel/ops/weight/sparse_panels.h"

#include <algorithm>
#include <cstring>

#include "carousel/core/error.h"

namespace carousel {

// A live weight costs its index too, and its x is fetched alone, where dense panels stream. With one row of x and
// matrices of 2048 and 4096, about one live weight in four breaks even with bf16 panels, more with f32.
bool SparsePanels::pays(int64_t live, int64_t rows, int64_t cols) {
  constexpr int64_t kMaxCols = int64_t{1} << 26;  // the kernel's offsets are 32 bits
  return cols <= kMaxCols && static_cast<double>(live) < 0.2 * static_cast<double>(rows) * static_cast<double>(cols);
}

SparsePanels::SparsePanels(const Mask& mask, DType dtype, Memory& memory, std::optional<DType> blocks)
    : rows_(mask.rows()), cols_(mask.cols()), dtype_(dtype), blocks_(blocks), wide_(mask.cols() > 65536) {
  const int64_t panels = (rows_ + kPanelRows - 1) / kPanelRows;
  counts_.resize(static_cast<size_t>(panels * kPanelRows));
  first_steps_.resize(static_cast<size_t>(panels + 1));
  for (int64_t panel = 0; panel < panels; ++panel) {
    int64_t steps = 0;
    for (int64_t r = panel * kPanelRows; r < std::min(rows_, (panel + 1) * kPanelRows); ++r) {
      const int64_t live = mask.live_in_row(r);
      CAROUSEL_ASSERT(live <= INT32_MAX);
      counts_[static_cast<size_t>(r)] = static_cast<int32_t>(live);
      steps = std::max(steps, live);
    }
    first_steps_[static_cast<size_t>(panel + 1)] = first_steps_[static_cast<size_t>(panel)] + steps;
  }
  size_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<size_t>(first_steps_.back()), step_bytes(), &bytes) || bytes > INT64_MAX) {
    fail(ErrorKind::kShape, "weight: [{}, {}] is too large", rows_, cols_);
  }
  steps_ = Tensor(Shape{static_cast<int64_t>(bytes)}, DType::kU8, memory);
  if (steps_.raw() == nullptr) return;
  std::vector<int8_t> signs(static_cast<size_t>(cols_));
  for (int64_t r = 0; r < rows_; ++r) {
    mask.row(r, signs.data());
    int64_t step = 0;
    for (int64_t k = 0; k < cols_; ++k) {
      if (signs[static_cast<size_t>(k)] == 0) continue;
      CAROUSEL_ASSERT(step < counts_[static_cast<size_t>(r)]);
      const auto column = static_cast<uint32_t>(k);  // little-endian: its first two bytes are the u16
      std::memcpy(cell(r, step++, false), &column, wide_ ? 4 : 2);
    }
  }
}

size_t SparsePanels::size_bytes() const {
  return steps_.size_bytes() + first_steps_.size() * sizeof(int64_t) + counts_.size() * sizeof(int32_t);
}

std::byte* SparsePanels::cell(int64_t row, int64_t step, bool value) const {
  const auto at = static_cast<size_t>(first_steps_[static_cast<size_t>(row / kPanelRows)] + step);
  const auto r = static_cast<size_t>(row % kPanelRows);
  const size_t index_bytes = wide_ ? 4 : 2;
  const size_t within =
      value ? static_cast<size_t>(kPanelRows) * index_bytes + r * dtype_size(dtype_) : r * index_bytes;
  return static_cast<std::byte*>(steps_.raw()) + at * step_bytes() + within;
}

int64_t SparsePanels::column(int64_t row, int64_t step) const {
  uint32_t column = 0;
  std::memcpy(&column, cell(row, step, false), wide_ ? 4 : 2);
  return column;
}

/// The values of row `row` of the matrix in f32, rounded to blocks where that is asked for.
std::vector<float> SparsePanels::widened(int64_t row, const std::byte* stored, DType source_dtype) const {
  const auto cols = static_cast<size_t>(cols_);
  std::vector<float> values(cols);
  widen(stored, source_dtype, values.data(), cols);
  if (!blocks_) return values;
  if (source_dtype != *blocks_) {
    std::vector<float> live(cols);
    for (int64_t step = 0; step < counts_[static_cast<size_t>(row)]; ++step) {
      const auto k = static_cast<size_t>(column(row, step));
      live[k] = values[k];
    }
    std::vector<std::byte> encoded(dtype_bytes(*blocks_, cols));
    narrow(live.data(), *blocks_, encoded.data(), cols);
    widen(encoded.data(), *blocks_, values.data(), cols);
  }
  const float largest = largest_value(dtype_);  // a code times its scale may be more than the value it stands for
  for (float& value : values) value = std::clamp(value, -largest, largest);
  return values;
}

void SparsePanels::write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major,
                              DType source_dtype) {
  if (steps_.raw() == nullptr) return;
  const size_t size = dtype_size(dtype_), cols = static_cast<size_t>(cols_);
  const size_t row_bytes = dtype_bytes(source_dtype, cols);
  parallel_for(*stream.pool, count, [&](int64_t i) {
    const std::byte* row = static_cast<const std::byte*>(row_major) + static_cast<size_t>(i) * row_bytes;
    std::vector<std::byte> converted;
    if (blocks_ || source_dtype != dtype_) {
      const std::vector<float> values = widened(first + i, row, source_dtype);
      converted.resize(cols * size);
      narrow(values.data(), dtype_, converted.data(), cols);
      row = converted.data();
    }
    for (int64_t step = 0; step < counts_[static_cast<size_t>(first + i)]; ++step) {
      std::memcpy(cell(first + i, step, true), row + static_cast<size_t>(column(first + i, step)) * size, size);
    }
  });
}

void SparsePanels::read_rows(int64_t first, int64_t count, float* out) const {
  std::fill(out, out + count * cols_, 0.0f);
  for (int64_t row = first; row < first + count; ++row, out += cols_) {
    for (int64_t step = 0; step < counts_[static_cast<size_t>(row)]; ++step) {
      widen(cell(row, step, true), dtype_, out + column(row, step), 1);
    }
  }
}

}  // namespace carousel
