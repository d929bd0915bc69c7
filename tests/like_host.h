// SPDX-License-Identifier: Apache-2.0
// A memory of tests whose bytes are the host's.
#pragma once

#include <cstring>

#include "carousel/core/memory.h"

namespace carousel {

/// Does what the host's memory does. A derived class says what it does otherwise.
class LikeHost : public Memory {
 public:
  Device device() const override { return Device::kCpu; }
  size_t granted(size_t size_bytes) const override { return Memory::host().granted(size_bytes); }
  std::byte* allocate(size_t size_bytes) override { return Memory::host().allocate(size_bytes); }
  void release(std::byte* bytes, size_t size_bytes) noexcept override { Memory::host().release(bytes, size_bytes); }
  void zero(std::byte* bytes, size_t size_bytes) override { Memory::host().zero(bytes, size_bytes); }

 private:
  void copy_between(const Memory&, const std::byte* here, const Memory&, std::byte* there, size_t size_bytes) override {
    if (size_bytes > 0) std::memcpy(there, here, size_bytes);
  }
};

}  // namespace carousel
