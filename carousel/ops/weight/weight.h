// SPDX-License-Identifier: Apache-2.0
// A Weight is the matrix of a projection or of a table. Only ops::linear, ops::embedding, ops::moe_experts and their
// kernels look inside.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"
#include "carousel/cpu/isa.h"
#include "carousel/ops/weight/dense_panels.h"
#include "carousel/ops/weight/dense_rows.h"
#include "carousel/ops/weight/sparse_blocks.h"
#include "carousel/ops/weight/sparse_panels.h"

namespace carousel {

/// A matrix [rows, cols] in f32, f16, bf16 or a block type, and the bias of its projection. How it is held is one of
/// five forms, each with its packing, its unpacking and its bytes; ops::linear has the product of each. Copies share
/// what is held.
class Weight {
 public:
  /// What the matrix is for: products (panels) or look-up (rows).
  enum class Layout : uint8_t { kPanels, kRows };
  using Form = std::variant<std::monostate, DensePanels, DenseRows, MappedRows, SparsePanels, SparseBlocks>;
  static constexpr int64_t kPanelRows = DensePanels::kPanelRows;

  Weight() = default;
  /// DensePanels or DenseRows, fresh and zeroed; on kMeta nothing is allocated. In a memory that is apart it is
  /// DenseRows for either layout. Throws kShape: another dtype, rows or cols below 1, overflow.
  Weight(int64_t rows, int64_t cols, DType dtype, Layout layout, Memory& memory = Memory::host());
  /// For a projection that `mask` cuts: sparse where that is faster, else panels with zeros. Of block types it takes q8
  /// and q4, which are SparseBlocks where that pays and `byte_expand` says that their kernel is fast; else what is
  /// sparse is held in f16: where SparseBlocks pay, their values, so that one file is one model on every machine.
  Weight(const Mask& mask, DType dtype, Memory& memory = Memory::host(), bool byte_expand = cpu::has_byte_expand());

  /// MappedRows: row-major rows where they are, in memory that `keep` keeps alive. They cannot be written.
  static Weight over(std::shared_ptr<const void> keep, const std::byte* row_major, int64_t rows, int64_t cols,
                     DType dtype);

  /// A weight that is trained: DensePanels, or MappedRows for look-up, of `master` [rows, cols] f32, which it follows
  /// at every repack(); packed once here. Where the stream computes in bf16 it is bf16: rounded when packed or read.
  static Weight of_master(const Stream& stream, const Tensor& master, Layout layout);

  bool defined() const { return rows_ > 0; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }  // the one asked for; a sparse form may hold values in another
  Memory& memory() const { return *memory_; }
  Device device() const { return memory_->device(); }
  size_t size_bytes() const;  // as held, bias and padding included
  const Form& form() const { return form_; }
  /// The form, if it is this one; else null.
  template <class F>
  const F* as() const {
    return std::get_if<F>(&form_);
  }

  /// Packs `count` row-major rows, starting at row `first`, split over the stream's threads. The source may have any
  /// alignment; its rows follow each other, dtype_bytes(source_dtype, cols) each. Rows of this weight's own dtype are
  /// repacked as they are, others (of a float or block type) go through f32. A sparse form takes the live values.
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major, DType source_dtype);
  void write_rows(const Stream& stream, int64_t first, int64_t count, const void* row_major) {
    write_rows(stream, first, count, row_major, dtype_);
  }
  /// The inverse, widened to f32: out [count, cols]; zeros where a sparse form has no weight.
  void read_rows(int64_t first, int64_t count, float* out) const;

  /// What a trained weight is made from, [rows, cols] f32; undefined for others.
  const Tensor& master() const { return master_; }
  /// W^T [cols, rows] as dtype(), which the gradient of a product's input is computed with; null where nobody trains.
  const DensePanels* transpose() const { return transpose_.get(); }
  /// Packs the master again. Copies share what is packed.
  void repack(const Stream& stream) const;

  Tensor bias;  // [rows] f32, or empty

 private:
  Weight(int64_t rows, int64_t cols, DType dtype, Memory& memory);  // checked, with no form yet

  int64_t rows_ = 0;
  int64_t cols_ = 0;
  DType dtype_ = DType::kF32;
  Memory* memory_ = &Memory::host();
  Form form_;
  Tensor master_;
  std::shared_ptr<DensePanels> transpose_;
};

}  // namespace carousel
