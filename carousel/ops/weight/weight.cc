// SPDX-License-Identifier: Apache-2.0
// Which form a matrix is held in, and the calls that every form answers.
#include "carousel/ops/weight/weight.h"

#include <optional>
#include <type_traits>

#include "carousel/core/assert.h"
#include "carousel/core/error.h"
#include "carousel/ops/kernel.h"

namespace carousel {
namespace {

/// Calls f(form) unless there is none.
template <class F>
void visit_form(const Weight::Form& form, const F& f) {
  std::visit(
      [&](const auto& held) {
        if constexpr (!std::is_same_v<decltype(held), const std::monostate&>) f(held);
      },
      form);
}

}  // namespace

Weight::Weight(int64_t rows, int64_t cols, DType dtype, Memory& memory)
    : rows_(rows), cols_(cols), dtype_(dtype), memory_(&memory) {
  if (rows < 1 || cols < 1)
    fail(ErrorKind::kShape, "weight: got [{}, {}], expected at least one row and column", rows, cols);
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16 && !is_block(dtype)) {
    fail(ErrorKind::kShape, "weight: got {}, expected F32, F16, BF16 or a block type", dtype_name(dtype));
  }
  // Half the address space: what is left out is refused before any signed arithmetic on it.
  constexpr int64_t kMaxDim = INT64_MAX / 1024;
  if (rows > kMaxDim || cols > kMaxDim) fail(ErrorKind::kShape, "weight: [{}, {}] is too large", rows, cols);
}

Weight::Weight(int64_t rows, int64_t cols, DType dtype, Layout layout, Memory& memory)
    : Weight(rows, cols, dtype, memory) {
  if (layout == Layout::kPanels && !memory.is_apart()) {
    form_ = DensePanels(rows, cols, dtype, memory);
  } else {
    form_ = DenseRows(rows, cols, dtype, memory);
  }
}

Weight::Weight(const Mask& mask, DType dtype, Memory& memory, bool byte_expand)
    : Weight(mask.rows(), mask.cols(), dtype, memory) {
  if (!kernel_traits(memory).masks) {
    fail(ErrorKind::kDevice, "weight: a matrix with a mask: not on this device");
  }
  if (is_block(dtype) && !is_simple_block(dtype)) {
    fail(ErrorKind::kShape, "weight: a matrix with a mask in {}, expected a float type, Q8 or Q4", dtype_name(dtype));
  }
  const int64_t live = mask.live();
  const bool blocks_pay = SparseBlocks::pays(live, rows_, cols_, dtype);
  if (byte_expand && blocks_pay) {
    form_ = SparseBlocks(mask, dtype, memory);
  } else if (blocks_pay || SparsePanels::pays(live, rows_, cols_)) {
    form_ = SparsePanels(mask, is_block(dtype) ? DType::kF16 : dtype, memory,
                         blocks_pay ? std::optional(dtype) : std::nullopt);
  } else {
    form_ = DensePanels(rows_, cols_, dtype, memory);
  }
}

Weight Weight::over(std::shared_ptr<const void> keep, const std::byte* row_major, int64_t rows, int64_t cols,
                    DType dtype) {
  Weight weight(rows, cols, dtype, Memory::host());
  weight.form_ = MappedRows(std::move(keep), row_major, rows, cols, dtype);
  return weight;
}

Weight Weight::of_master(const Stream& stream, const Tensor& master, Layout layout) {
  const DType dtype = stream.compute == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  const int64_t rows = master.dim(0), cols = master.dim(1);
  Weight weight(rows, cols, dtype, *stream.memory);
  weight.master_ = master;
  if (layout == Layout::kRows) {
    const auto keep = std::make_shared<Tensor>(master);
    weight.form_ = MappedRows(keep, static_cast<const std::byte*>(master.raw()), rows, cols, DType::kF32);
    return weight;
  }
  weight.form_ = DensePanels(rows, cols, dtype, *stream.memory);
  weight.transpose_ = std::make_shared<DensePanels>(cols, rows, dtype, *stream.memory);
  weight.repack(stream);
  return weight;
}

void Weight::repack(const Stream& stream) const {
  const auto* const panels = as<DensePanels>();
  if (!master_.defined() || panels == nullptr || stream.device() == Device::kMeta) return;
  DensePanels(*panels).write_rows(stream, 0, rows_, master_.raw(), DType::kF32);  // a copy shares the panels
  if (transpose_ != nullptr) transpose_->write_transpose(stream, master_.f32());
}

size_t Weight::size_bytes() const {
  size_t bytes = bias.defined() ? bias.size_bytes() : 0;
  visit_form(form_, [&](const auto& held) { bytes += held.size_bytes(); });
  return bytes;
}

void Weight::write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype) {
  CAROUSEL_ASSERT(0 <= first && 0 <= count && count <= rows_ - first);
  if (!is_float(source_dtype) && !is_block(source_dtype)) {
    fail(ErrorKind::kShape, "weight: got rows of {}, expected a float or block type", dtype_name(source_dtype));
  }
  std::visit(
      [&](auto& held) {
        if constexpr (requires { held.back_rows(stream, first, count); }) held.back_rows(stream, first, count);
        if constexpr (requires { held.write_rows(stream, first, count, row_major, source_dtype); }) {
          held.write_rows(stream, first, count, row_major, source_dtype);
        } else {
          CAROUSEL_ASSERT(false);  // mapped rows are read only
        }
      },
      form_);
}

void Weight::read_rows(int64_t first, int64_t count, float* out) const {
  CAROUSEL_ASSERT(0 <= first && 0 <= count && count <= rows_ - first);
  visit_form(form_, [&](const auto& held) { held.read_rows(first, count, out); });
  if (!master_.defined() || dtype_ != DType::kBF16 || as<MappedRows>() == nullptr) return;
  for (int64_t i = 0; i < count * cols_; ++i) out[i] = to_float(to_bf16(out[i]));
}

}  // namespace carousel
