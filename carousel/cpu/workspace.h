// SPDX-License-Identifier: Apache-2.0
// Scratch memory of a kernel. One function lays it out for two callers. Over no memory it counts the bytes that the
// kernel's workspace function returns; over the op's memory it gives the kernel its pointers.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef CAROUSEL_ISA
namespace carousel::cpu::CAROUSEL_ISA {
#else  // in the body of a composite
namespace carousel::cpu {
#endif

class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}

  /// Takes `count` elements, 64-byte aligned; null over no memory. Contents are unspecified.
  template <class T>
  T* take(int64_t count) {
    T* const place = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    bytes_ += (size + kAlignment - 1) / kAlignment * kAlignment;
    return place;
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kAlignment = 64;
  char* memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace carousel::cpu
