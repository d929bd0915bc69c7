// SPDX-License-Identifier: Apache-2.0
// Where the bytes of tensors are. Storage, Arena, Tensor and State move bytes through this interface alone, so a device
// is one more implementation of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace carousel {

enum class Device : uint8_t {
  kCpu,
  kMeta,  // shapes only: counts parameters, bytes and states without allocating
};

/// The memory of one device. Any thread may call it.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual Device device() const = 0;
  /// Bytes that a request for `size_bytes` takes: at least as many.
  virtual size_t granted(size_t size_bytes) const = 0;
  /// Zeroed, of a granted size; null for none, and always on kMeta. Throws Error(kIo, kDevice) if it cannot be had.
  virtual std::byte* allocate(size_t granted_bytes) = 0;
  virtual void release(std::byte* bytes, size_t granted_bytes) noexcept = 0;
  virtual void zero(std::byte* bytes, size_t size_bytes) = 0;
  /// From here to a place of `to`, which is this memory or the host's.
  virtual void copy(const Memory& to, std::byte* there, const std::byte* here, size_t size_bytes) = 0;

  /// Blocks are 64-byte aligned; from 4 MiB on they are page-aligned and ask for huge pages.
  static Memory& host();
  /// Grants what the host would, and has nothing: tensors on it have shapes and no bytes.
  static Memory& meta();
};

}  // namespace carousel
