// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/slab.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

namespace carousel {
namespace {

bool all(const Tensor& bytes, int value) {
  const auto* p = static_cast<const unsigned char*>(bytes.raw());
  return std::all_of(p, p + bytes.count(), [&](unsigned char byte) { return byte == value; });
}

// From what has storage of its own for being tiny to what has for being large, and more than one slab together.
const std::vector<int64_t> kSizes = {
    0, 1, 100, (64 << 10) - 1, 64 << 10, 300001, 5 << 20, 7 << 20, (16 << 20) + 1, 16 << 20, 16 << 20, 123456};

TEST(Slab, BytesAreFreshZeroedAlignedAndApart) {
  std::vector<Tensor> parts;
  for (const int64_t size : kSizes) {
    parts.push_back(slab_bytes(size));
    EXPECT_EQ(parts.back().shape(), Shape{size});
    EXPECT_EQ(parts.back().dtype(), DType::kU8);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(parts.back().raw()) % 64, 0u);
    EXPECT_TRUE(all(parts.back(), 0)) << size;
    if (size > 0) std::memset(parts.back().raw(), static_cast<int>(parts.size()), static_cast<size_t>(size));
  }
  for (size_t i = 0; i < parts.size(); ++i) EXPECT_TRUE(all(parts[i], static_cast<int>(i + 1))) << i;
}

TEST(Slab, WhatLivesOnOutlivesItsNeighbours) {
  std::optional<Tensor> before = slab_bytes(1 << 20);
  const Tensor kept = slab_bytes(1 << 20);
  std::optional<Tensor> after = slab_bytes(1 << 20);
  std::memset(kept.raw(), 7, 1 << 20);
  before.reset();
  after.reset();
  EXPECT_TRUE(all(kept, 7));
  EXPECT_TRUE(all(slab_bytes(1 << 20), 0));
  EXPECT_TRUE(all(kept, 7));
}

TEST(Slab, ThreadsGetBytesOfTheirOwn) {
  std::vector<std::thread> threads;
  std::vector<int> good(4, 0);
  for (size_t t = 0; t < good.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) {
        const Tensor bytes = slab_bytes(70000 + round);
        if (!all(bytes, 0)) return;
        std::memset(bytes.raw(), static_cast<int>(t + 1), static_cast<size_t>(bytes.count()));
        if (!all(bytes, static_cast<int>(t + 1))) return;
      }
      good[t] = 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, std::vector<int>(4, 1));
}

TEST(Slab, OnMetaNothingIsAllocated) { EXPECT_EQ(slab_bytes(1 << 20, Memory::meta()).raw(), nullptr); }

// A range that begins and ends within pages, among bytes that are written already.
TEST(Slab, BackedPagesKeepTheirBytes) {
  ThreadPool pool(3);
  const Tensor bytes = slab_bytes(20 << 20);
  auto* const begin = static_cast<std::byte*>(bytes.raw());
  constexpr size_t kOffset = (size_t{3} << 20) + 4321, kBacked = (size_t{9} << 20) + 17;
  std::memset(begin, 7, kOffset + 1000);
  back_pages(pool, begin + kOffset, kBacked);
  back_pages(pool, begin, 0);
  EXPECT_TRUE(all(bytes.rows(0, kOffset + 1000), 7));
  EXPECT_TRUE(all(bytes.rows(kOffset + 1000, bytes.count()), 0));
}

}  // namespace
}  // namespace carousel
