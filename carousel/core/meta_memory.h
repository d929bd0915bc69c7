// SPDX-License-Identifier: Apache-2.0
// Memories that stand for others and hold no bytes derive from one class.
#pragma once

#include <cstring>

#include "carousel/core/memory.h"

namespace carousel {

/// Holds no bytes: what is copied from it to the host is zero there. A derived class says what it grants.
class MetaMemory : public Memory {
 public:
  Device device() const override { return Device::kMeta; }
  std::byte* allocate(size_t) override { return nullptr; }
  void release(std::byte*, size_t) noexcept override {}
  void zero(std::byte*, size_t) override {}

 private:
  void copy_between(const Memory&, const std::byte*, const Memory& to, std::byte* there, size_t size_bytes) override {
    if (to.device() == Device::kCpu && size_bytes > 0) std::memset(there, 0, size_bytes);
  }
};

}  // namespace carousel
