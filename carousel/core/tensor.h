// SPDX-License-Identifier: Apache-2.0
// Device-typed tensors: a dense row-major view of refcounted storage. Copying a Tensor aliases; clone() copies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "carousel/core/dtype.h"
#include "carousel/core/memory.h"

namespace carousel {

/// Up to 6 dimensions, held in place.
class Shape {
 public:
  static constexpr int kMaxRank = 6;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(const std::vector<int64_t>& dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i < 0 ? i + rank_ : i)]; }
  void push_back(int64_t dim);
  int64_t count() const;    // number of elements; throws Error(kShape) on negative dims or overflow
  std::string str() const;  // "[2, 3]"
  bool operator==(const Shape& other) const;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// A block of one Memory, zeroed when fresh. It is freed with its last owner.
class Storage {
 public:
  Storage(Memory& memory, size_t size_bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* bytes() const { return bytes_; }
  size_t size_bytes() const { return size_bytes_; }  // as the memory granted them
  Memory& memory() const { return memory_; }
  /// A fresh block in `to` with the same bytes.
  std::shared_ptr<Storage> copy(Memory& to) const;

 private:
  Memory& memory_;
  std::byte* bytes_ = nullptr;  // null on kMeta
  size_t size_bytes_ = 0;
};

class Tensor {
 public:
  Tensor() = default;  // empty: defined() is false
  /// Fresh zeroed storage of `memory`.
  Tensor(Shape shape, DType dtype, Memory& memory = Memory::host());
  /// A view of `storage` from byte `offset`; keeps it alive.
  Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, Shape shape, DType dtype);
  /// A view of memory that `keep` keeps alive (a mapped file, say). It may only be read.
  static Tensor over(std::shared_ptr<const void> keep, const void* bytes, Shape shape, DType dtype);

  bool defined() const { return shape_.rank() > 0 || bytes_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t count() const { return shape_.count(); }
  DType dtype() const { return dtype_; }
  Memory& memory() const { return memory_ != nullptr ? *memory_ : Memory::host(); }
  Device device() const { return memory_ != nullptr ? memory_->device() : Device::kCpu; }
  size_t size_bytes() const { return dtype_bytes(dtype_, static_cast<size_t>(count())); }
  void* raw() const { return bytes_; }  // in memory(): for kernels and copies
  /// The elements for code of the host; null where there are no bytes. Asserts the dtype, and that they lie on the
  /// host: to_host() brings them.
  float* f32() const;
  int32_t* i32() const;
  int64_t* i64() const;

  Tensor rows(int64_t begin, int64_t end) const;  // view of rows of the first dimension
  Tensor reshape(Shape shape) const;              // same elements, another shape
  Tensor clone() const;                           // a copy in the same memory
  Tensor to(Memory& memory) const;                // this tensor where it lies there already, else a copy
  Tensor to_host() const { return to(Memory::host()); }
  Tensor to_f32() const;  // widened copy (float dtypes)
  long owners() const { return keep_.use_count(); }
  /// Which tensor of its arena this is: Arena::empty counts from 1; aliasing copies and views (rows, reshape) keep it.
  /// 0 for what comes from no arena (parameters, states, clones). An address would not tell activations apart: a block
  /// of an arena serves several tensors of one forward, one after the other, and a gradient belongs to one of them.
  uint64_t id() const { return id_; }
  /// Its id and shape without its memory: says which tensor a gradient belongs to, and keeps nothing.
  Tensor name() const;

 private:
  friend class Arena;
  std::byte* on_host(DType dtype) const;  // the elements, of this dtype

  std::shared_ptr<const void> keep_;
  std::byte* bytes_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::kF32;
  Memory* memory_ = nullptr;  // null: the host's
  uint64_t id_ = 0;           // of an arena's tensor
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};
using NamedTensors = std::vector<NamedTensor>;

/// Memory the system can give without swapping or killing a process, as /proc and the control groups of this process
/// say; the largest size_t if they do not.
size_t available_memory_bytes();
/// Most bytes of memory this process has held so far, or since the last reset; 0 where unknown.
size_t peak_memory_bytes();
/// Makes peak_memory_bytes() count from now on; does nothing where the system cannot.
void reset_peak_memory();

/// Memory of activations. The arena reuses a block once its last Tensor has died, so a steady decode loop allocates
/// nothing. Contents of a fresh tensor are unspecified. Not for use by two threads at once.
class Arena {
 public:
  explicit Arena(Memory& memory = Memory::host()) : memory_(&memory) {}
  Tensor empty(Shape shape, DType dtype = DType::kF32);  // with an id of its own
  Tensor zeros(Shape shape, DType dtype = DType::kF32);
  size_t size_bytes() const;  // of all its blocks, used or not
  void trim();                // frees the blocks that no tensor holds
  /// From now on a tensor takes no block that is more than a quarter larger than it: what a tape keeps for long then
  /// pins no more than it needs.
  void fit_tightly() { tight_ = true; }

 private:
  Memory* memory_;
  std::vector<std::shared_ptr<Storage>> blocks_;
  uint64_t last_id_ = 0;  // of the tensors handed out
  bool tight_ = false;    // whether large blocks are refused to small tensors
};

/// Throws Error(kShape) "where: name is [2, 3], expected [4, *]"; a dim of -1 in `expected` matches any.
void check_shape(const char* where, const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected);
void check_dtype(const char* where, const char* name, const Tensor& tensor, DType expected);

}  // namespace carousel
