// SPDX-License-Identifier: Apache-2.0
// The host's memory, and meta's, which grants the same sizes and holds no bytes.
#include "carousel/core/memory.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/meta_memory.h"
#include "carousel/core/tensor.h"

namespace carousel {
namespace {

constexpr size_t kHugeBytes = size_t{4} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

[[noreturn]] void fail_to_allocate(size_t size_bytes) {
  fail(ErrorKind::kIo, "out of memory: cannot allocate {} bytes", size_bytes);
}

size_t host_granted(size_t size_bytes) {
  if (size_bytes > SIZE_MAX - kHugePage) fail_to_allocate(size_bytes);  // rounding up would wrap to a small size
  return size_bytes >= kHugeBytes ? round_up(size_bytes, kHugePage) : size_bytes;
}

/// The host has done what it was asked for when the call returns.
class HostMoment final : public Moment {
 public:
  double seconds_since(const Moment& earlier) const override {
    return std::chrono::duration<double>(at_ - static_cast<const HostMoment&>(earlier).at_).count();
  }

 private:
  std::chrono::steady_clock::time_point at_ = std::chrono::steady_clock::now();
};

class HostMemory final : public Memory {
 public:
  Device device() const override { return Device::kCpu; }
  size_t granted(size_t size_bytes) const override { return host_granted(size_bytes); }
  size_t available_bytes() const override { return available_memory_bytes(); }

  std::byte* allocate(size_t granted_bytes) override {
    if (granted_bytes == 0) return nullptr;
    if (granted_bytes >= kHugeBytes) {
      void* pages = ::mmap(nullptr, granted_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (pages == MAP_FAILED) fail_to_allocate(granted_bytes);
      ::madvise(pages, granted_bytes, MADV_HUGEPAGE);
      return static_cast<std::byte*>(pages);
    }
    auto* bytes = static_cast<std::byte*>(std::aligned_alloc(kAlignment, round_up(granted_bytes, kAlignment)));
    if (bytes == nullptr) fail_to_allocate(granted_bytes);
    std::memset(bytes, 0, granted_bytes);
    return bytes;
  }

  void release(std::byte* bytes, size_t granted_bytes) noexcept override {
    if (bytes == nullptr) return;
    if (granted_bytes >= kHugeBytes) {
      ::munmap(bytes, granted_bytes);
    } else {
      std::free(bytes);
    }
  }

  void zero(std::byte* bytes, size_t size_bytes) override {
    if (size_bytes > 0) std::memset(bytes, 0, size_bytes);
  }

 private:
  void copy_between(const Memory&, const std::byte* here, const Memory&, std::byte* there, size_t size_bytes) override {
    if (size_bytes > 0) std::memcpy(there, here, size_bytes);
  }
};

/// Grants what the host does.
class HostMeta final : public MetaMemory {
 public:
  size_t granted(size_t size_bytes) const override { return host_granted(size_bytes); }
};

}  // namespace

std::unique_ptr<Moment> Memory::moment() { return std::make_unique<HostMoment>(); }

// The memories are never destroyed: storage with static lifetime may be released after them.
Memory& Memory::host() {
  static Memory& memory = *new HostMemory;
  return memory;
}
Memory& Memory::meta() {
  static Memory& memory = *new HostMeta;
  return memory;
}

}  // namespace carousel
