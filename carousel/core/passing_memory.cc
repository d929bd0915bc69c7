// SPDX-License-Identifier: Apache-2.0
// Every request goes to the host's memory.
#include "carousel/core/passing_memory.h"

#include <cstring>

namespace carousel {
namespace {

class PassingMemory final : public Memory {
 public:
  Device device() const override { return Device::kCpu; }
  size_t granted(size_t size_bytes) const override { return Memory::host().granted(size_bytes); }
  size_t available_bytes() const override { return Memory::host().available_bytes(); }
  std::byte* allocate(size_t granted_bytes) override { return Memory::host().allocate(granted_bytes); }
  void release(std::byte* bytes, size_t granted_bytes) noexcept override {
    Memory::host().release(bytes, granted_bytes);
  }
  void zero(std::byte* bytes, size_t size_bytes) override { Memory::host().zero(bytes, size_bytes); }

 private:
  void copy_between(const Memory&, const std::byte* here, const Memory&, std::byte* there, size_t size_bytes) override {
    if (size_bytes > 0) std::memcpy(there, here, size_bytes);
  }
};

}  // namespace

Memory& passing_memory() {
  static Memory& memory = *new PassingMemory;
  return memory;
}

}  // namespace carousel
