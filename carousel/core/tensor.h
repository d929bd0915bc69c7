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

namespace carousel {

enum class Device : uint8_t {
  kCpu,
  kMeta,  // shapes only: counts parameters, bytes and states without allocating
};

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

/// A block of memory on one device, freed with its last owner. Zeroed when fresh. CPU blocks are 64-byte aligned;
/// from 4 MiB on they are page-aligned and ask for huge pages.
class Storage {
 public:
  Storage(Device device, size_t size_bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* bytes() const { return bytes_; }
  size_t size_bytes() const { return size_bytes_; }
  Device device() const { return device_; }

 private:
  Device device_;
  std::byte* bytes_ = nullptr;
  size_t size_bytes_ = 0;
};

class Tensor {
 public:
  Tensor() = default;  // empty: defined() is false
  /// Fresh zeroed storage on `device` (none on kMeta).
  Tensor(Shape shape, DType dtype, Device device = Device::kCpu);
  /// A view of `storage` from byte `offset`; keeps it alive.
  Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, Shape shape, DType dtype);
  /// A view of memory that `keep` keeps alive (a mapped file, say); read only by convention.
  static Tensor over(std::shared_ptr<const void> keep, const void* bytes, Shape shape, DType dtype);

  bool defined() const { return shape_.rank() > 0 || bytes_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t count() const { return shape_.count(); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  size_t size_bytes() const { return dtype_bytes(dtype_, static_cast<size_t>(count())); }
  void* raw() const { return bytes_; }
  float* f32() const;  // asserts the dtype
  int32_t* i32() const;
  int64_t* i64() const;

  Tensor rows(int64_t begin, int64_t end) const;  // view of rows of the first dimension
  Tensor reshape(Shape shape) const;              // same elements, another shape
  Tensor clone() const;
  Tensor to_f32() const;  // widened copy (float dtypes)
  long owners() const { return keep_.use_count(); }

 private:
  std::shared_ptr<const void> keep_;
  std::byte* bytes_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kCpu;
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};
using NamedTensors = std::vector<NamedTensor>;

/// Memory the system can give without swapping or killing anyone, as it and the control groups of this process say; the
/// largest size_t if they do not.
size_t available_memory_bytes();
/// Most bytes of memory this process has held so far, or since the last reset; 0 where unknown.
size_t peak_memory_bytes();
/// From now on; does nothing where the system has no such thing.
void reset_peak_memory();

/// Activations of one forward. A block goes back for reuse when its last Tensor dies, so a steady decode loop
/// allocates nothing. Contents of a fresh tensor are unspecified. Used by one thread at a time.
class Arena {
 public:
  explicit Arena(Device device = Device::kCpu) : device_(device) {}
  Tensor empty(Shape shape, DType dtype = DType::kF32);
  Tensor zeros(Shape shape, DType dtype = DType::kF32);
  size_t size_bytes() const;  // reserved now
  void trim();                // frees what no tensor holds

 private:
  Device device_;
  std::vector<std::shared_ptr<Storage>> blocks_;
};

/// Throws Error(kShape) "where: name is [2, 3], expected [4, *]"; a dim of -1 in `expected` matches any.
void check_shape(const char* where, const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected);
void check_dtype(const char* where, const char* name, const Tensor& tensor, DType expected);

}  // namespace carousel
