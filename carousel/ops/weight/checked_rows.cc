// SPDX-License-Identifier: Apache-2.0
// One panel after the other is checked and packed.
#include "carousel/ops/weight/checked_rows.h"

#include <algorithm>
#include <atomic>

#include "carousel/core/finite.h"
#include "carousel/core/slab.h"
#include "carousel/ops/weight/row_slices.h"

namespace carousel {
namespace {

/// Reads every cache line in order, which the processor fetches ahead; packing reads four rows at a time. The check of
/// blocks reads their scales alone.
void read_lines(const std::byte* bytes, size_t size_bytes) {
  constexpr size_t kLine = 64;
  for (size_t i = 0; i < size_bytes; i += kLine) static_cast<void>(*static_cast<const volatile std::byte*>(bytes + i));
}

}  // namespace

bool write_checked_rows(const Stream& stream, const DensePanels& panels, int64_t first, int64_t count, int64_t cols,
                        const std::byte* rows) {
  constexpr int64_t kPanelRows = DensePanels::kPanelRows;
  const DType dtype = panels.dtype();
  const bool large_blocks = block_values(dtype) == kMostBlockValues;
  const size_t row_bytes = dtype_bytes(dtype, static_cast<size_t>(cols)), each = DensePanels::panel_bytes(cols, dtype);
  auto* const out = static_cast<std::byte*>(panels.panels().raw());
  if (out == nullptr) return !first_not_finite(rows, dtype, count * cols);  // on meta
  panels.back_rows(stream, first, count);
  std::atomic<bool> finite{true};
  each_slice(stream, {first, count, cols, dtype, dtype}, rows,
             [&](int64_t begin, int64_t end, const std::byte* stored) {
               const int64_t panel = begin / kPanelRows, panel_row = panel * kPanelRows;
               if (large_blocks) read_lines(stored, static_cast<size_t>(end - begin) * row_bytes);
               if (first_not_finite(stored, dtype, (end - begin) * cols)) finite.store(false);
               pack_panel_rows(out + static_cast<size_t>(panel) * each, begin - panel_row, end - panel_row, stored,
                               cols, dtype);
             });
  return finite.load();
}

}  // namespace carousel
