// SPDX-License-Identifier: Apache-2.0
// Shapes, storage, tensors and the arena, and what the system says of memory.
#include "carousel/core/tensor.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "carousel/core/control_groups.h"
#include "carousel/core/error.h"

namespace carousel {
namespace {

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

Shape::Shape(std::initializer_list<int64_t> dims) {
  for (const int64_t dim : dims) push_back(dim);
}
Shape::Shape(const std::vector<int64_t>& dims) {
  for (const int64_t dim : dims) push_back(dim);
}

void Shape::push_back(int64_t dim) {
  if (rank_ == kMaxRank) fail(ErrorKind::kShape, "shape: got more than {} dimensions", kMaxRank);
  dims_[static_cast<size_t>(rank_++)] = dim;
}

int64_t Shape::count() const {
  int64_t count = 1;
  for (int i = 0; i < rank_; ++i) {
    if ((*this)[i] < 0 || __builtin_mul_overflow(count, (*this)[i], &count)) {
      fail(ErrorKind::kShape, "shape: {} has no valid element count", str());
    }
  }
  return count;
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i ? ", " : "", (*this)[i]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int i = 0; i < rank_; ++i) {
    if ((*this)[i] != other[i]) return false;
  }
  return true;
}

Storage::Storage(Memory& memory, size_t size_bytes) : memory_(memory), size_bytes_(memory.granted(size_bytes)) {
  bytes_ = memory.allocate(size_bytes_);
}

Storage::~Storage() { memory_.release(bytes_, size_bytes_); }

std::shared_ptr<Storage> Storage::copy(Memory& to) const {
  auto copy = std::make_shared<Storage>(to, size_bytes_);
  Memory::copy(memory_, bytes_, to, copy->bytes_, size_bytes_);
  return copy;
}

Tensor::Tensor(Shape shape, DType dtype, Memory& memory) : shape_(shape), dtype_(dtype), memory_(&memory) {
  auto storage = std::make_shared<Storage>(memory, dtype_bytes(dtype, static_cast<size_t>(shape.count())));
  bytes_ = storage->bytes();
  keep_ = std::move(storage);
}

Tensor::Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, Shape shape, DType dtype)
    : shape_(shape), dtype_(dtype), memory_(&storage->memory()) {
  CAROUSEL_ASSERT(offset_bytes + size_bytes() <= storage->size_bytes());
  if (storage->bytes() != nullptr) bytes_ = storage->bytes() + offset_bytes;
  keep_ = std::move(storage);
}

Tensor Tensor::over(std::shared_ptr<const void> keep, const void* bytes, Shape shape, DType dtype) {
  Tensor view;
  view.keep_ = std::move(keep);
  view.bytes_ = static_cast<std::byte*>(const_cast<void*>(bytes));
  view.shape_ = shape;
  view.dtype_ = dtype;
  return view;
}

std::byte* Tensor::on_host(DType dtype) const {
  CAROUSEL_ASSERT(dtype_ == dtype && (bytes_ == nullptr || device() == Device::kCpu));
  return bytes_;
}
float* Tensor::f32() const { return reinterpret_cast<float*>(on_host(DType::kF32)); }
int32_t* Tensor::i32() const { return reinterpret_cast<int32_t*>(on_host(DType::kI32)); }
int64_t* Tensor::i64() const { return reinterpret_cast<int64_t*>(on_host(DType::kI64)); }

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  CAROUSEL_ASSERT(shape_.rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0]);
  Shape shape{end - begin};
  for (int i = 1; i < shape_.rank(); ++i) shape.push_back(shape_[i]);
  Tensor view = *this;
  view.shape_ = shape;
  const size_t row_bytes = shape_[0] == 0 ? 0 : size_bytes() / static_cast<size_t>(shape_[0]);
  if (bytes_ != nullptr) view.bytes_ = bytes_ + static_cast<size_t>(begin) * row_bytes;
  return view;
}

Tensor Tensor::reshape(Shape shape) const {
  CAROUSEL_ASSERT(shape.count() == count());
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::clone() const {
  Tensor copy(shape_, dtype_, memory());
  Memory::copy(memory(), bytes_, memory(), copy.bytes_, size_bytes());
  return copy;
}

Tensor Tensor::to(Memory& there) const {
  if (&there == &memory()) return *this;
  Tensor copy(shape_, dtype_, there);
  Memory::copy(memory(), bytes_, there, copy.bytes_, size_bytes());
  return copy;
}

Tensor Tensor::to_f32() const {
  Tensor copy(shape_, DType::kF32, memory());
  if (copy.bytes_ != nullptr) widen(bytes_, dtype_, copy.f32(), static_cast<size_t>(count()));
  return copy;
}

namespace {

// The figure after `key` in a file of /proc, in bytes; `unknown` where there is none.
size_t proc_kibibytes(const char* path, const char* key, size_t unknown) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "r"), std::fclose);
  char line[256];
  while (file && std::fgets(line, sizeof line, file.get()) != nullptr) {
    const size_t length = std::strlen(key);
    unsigned long long kibibytes = 0;
    if (std::strncmp(line, key, length) == 0 && std::sscanf(line + length, ": %llu kB", &kibibytes) == 1)
      return static_cast<size_t>(kibibytes) << 10;
  }
  return unknown;
}

}  // namespace

size_t available_memory_bytes() {
  const size_t machine = proc_kibibytes("/proc/meminfo", "MemAvailable", SIZE_MAX);
  const double left = memory_left();
  return left < static_cast<double>(machine) ? static_cast<size_t>(left) : machine;
}
size_t peak_memory_bytes() { return proc_kibibytes("/proc/self/status", "VmHWM", 0); }
void reset_peak_memory() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/clear_refs", "w"), std::fclose);
  constexpr char kResetPeak = '5';
  if (file) std::fwrite(&kResetPeak, 1, 1, file.get());
}

Tensor Tensor::name() const {
  Tensor out = *this;
  out.keep_ = nullptr;
  out.bytes_ = nullptr;
  return out;
}

Tensor Arena::empty(Shape shape, DType dtype) {
  const size_t size_bytes = static_cast<size_t>(shape.count()) * dtype_size(dtype);
  // Rounded up so that neighbouring sizes share a block.
  const size_t unit = size_bytes < (size_t{1} << 16) ? 1024 : size_t{1} << 16;
  const size_t fresh = round_up(tight_ ? std::max(size_bytes, size_t{1}) : size_bytes + 1, unit);
  const size_t most = tight_ ? std::max(memory_->granted(fresh), size_bytes + size_bytes / 4) : SIZE_MAX;
  std::shared_ptr<Storage>* best = nullptr;
  for (std::shared_ptr<Storage>& block : blocks_) {
    if (block.use_count() > 1 || block->size_bytes() < size_bytes || block->size_bytes() > most) continue;
    if (best == nullptr || block->size_bytes() < (*best)->size_bytes()) best = &block;
  }
  if (best == nullptr) {
    blocks_.push_back(std::make_shared<Storage>(*memory_, fresh));
    best = &blocks_.back();
  }
  Tensor tensor(*best, 0, shape, dtype);
  tensor.id_ = ++last_id_;
  return tensor;
}

Tensor Arena::zeros(Shape shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  memory_->zero(static_cast<std::byte*>(tensor.raw()), tensor.size_bytes());
  return tensor;
}

size_t Arena::size_bytes() const {
  size_t total = 0;
  for (const auto& block : blocks_) total += block->size_bytes();
  return total;
}

void Arena::trim() {
  std::erase_if(blocks_, [](const std::shared_ptr<Storage>& block) { return block.use_count() == 1; });
}

void check_shape(const char* where, const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  const Shape& got = tensor.shape();
  bool same = got.rank() == static_cast<int>(expected.size());
  int i = 0;
  for (const int64_t dim : expected) {
    same = same && (dim < 0 || got[i] == dim);
    ++i;
  }
  if (same) return;
  std::string wanted;
  for (const int64_t dim : expected) {
    if (!wanted.empty()) wanted += ", ";
    wanted += dim < 0 ? "*" : std::to_string(dim);
  }
  fail(ErrorKind::kShape, "{}: {} is {}, expected [{}]", where, name, got.str(), wanted);
}

void check_dtype(const char* where, const char* name, const Tensor& tensor, DType expected) {
  if (tensor.dtype() != expected) {
    fail(ErrorKind::kShape, "{}: {} is {}, expected {}", where, name, dtype_name(tensor.dtype()), dtype_name(expected));
  }
}

}  // namespace carousel
