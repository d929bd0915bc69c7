// SPDX-License-Identifier: Apache-2.0
// Memories: the host's blocks are aligned and zeroed, meta grants the same sizes and has nothing.
#include "carousel/core/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "carousel/core/tensor.h"

namespace carousel {
namespace {

TEST(Memory, HostBlocksAreAlignedAndZeroed) {
  for (const size_t wanted : {size_t{1}, size_t{100}, size_t{4} << 20, (size_t{4} << 20) + 1}) {
    Memory& host = Memory::host();
    const size_t granted = host.granted(wanted);
    ASSERT_GE(granted, wanted);
    std::byte* const bytes = host.allocate(granted);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % 64, 0u);
    EXPECT_TRUE(std::all_of(bytes, bytes + granted, [](std::byte b) { return b == std::byte{0}; }));
    host.release(bytes, granted);
  }
}

TEST(Memory, MetaGrantsWhatTheHostDoes) {
  for (const size_t wanted : {size_t{0}, size_t{1}, size_t{4} << 20, (size_t{4} << 20) + 1}) {
    EXPECT_EQ(Memory::meta().granted(wanted), Memory::host().granted(wanted));
  }
  EXPECT_EQ(Memory::meta().allocate(100), nullptr);
}

TEST(Memory, CopiesGoWithinOneMemoryAndFromTheHostAnywhere) {
  const Tensor a(Shape{3}, DType::kF32);
  for (int i = 0; i < 3; ++i) a.f32()[i] = static_cast<float>(i);
  const Tensor b = a.clone();
  EXPECT_NE(a.raw(), b.raw());
  EXPECT_EQ(b.f32()[2], 2.0f);
  EXPECT_EQ(a.to(Memory::host()).raw(), a.raw()) << "what lies there is not copied";
  EXPECT_EQ(a.to(Memory::meta()).device(), Device::kMeta);
}

TEST(Memory, WhatComesFromMetaIsZero) {
  const Tensor there(Shape{3}, DType::kF32, Memory::meta());
  const Tensor here = there.to_host();
  EXPECT_EQ(here.device(), Device::kCpu);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(here.f32()[i], 0.0f);
  float bytes[2] = {1, 2};
  Memory::copy(Memory::meta(), nullptr, Memory::host(), reinterpret_cast<std::byte*>(bytes), sizeof bytes);
  EXPECT_EQ(bytes[1], 0.0f);
}

TEST(Memory, ArenasOnMetaReserveWhatTheHostsDo) {
  Arena host, meta(Memory::meta());
  for (Arena* arena : {&host, &meta}) {
    Tensor a = arena->empty({100, 100}), b = arena->zeros({3, 1000, 1000});
    a = Tensor();
    const Tensor c = arena->empty({50, 50});
  }
  EXPECT_EQ(host.size_bytes(), meta.size_bytes());
}

}  // namespace
}  // namespace carousel
