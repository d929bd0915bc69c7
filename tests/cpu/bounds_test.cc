// SPDX-License-Identifier: Apache-2.0
// The measured bounds are rates, so a test can only ask that they are there and of a possible size.
#include "carousel/cpu/bounds.h"

#include <gtest/gtest.h>

#include "carousel/cpu/isa.h"
#include "tests/isas.h"

namespace carousel {
namespace {

TEST(Bounds, AreMeasuredOnEverySet) {
  ThreadPool pool(2);
  for (const Isa isa : tested_isas()) {
    const Stream stream{&Memory::host(), isa, &pool};
    const cpu::Bounds bounds = cpu::measure_bounds(
        stream, 1, [] { return true; }, size_t{8} << 20);
    EXPECT_GT(bounds.read_gb_per_s, 0.01);
    EXPECT_LT(bounds.read_gb_per_s, 1e5);
    EXPECT_GT(bounds.scale_gb_per_s, 0.01);
    EXPECT_LT(bounds.scale_gb_per_s, 1e5);
    EXPECT_GT(bounds.f32_gflop_per_s, 0.01);
    EXPECT_LT(bounds.f32_gflop_per_s, 1e5);
    EXPECT_GT(bounds.int8_gop_per_s, 0.01);
    EXPECT_LT(bounds.int8_gop_per_s, 1e6);
    ASSERT_EQ(bounds.caches.size(), 3u);
    for (const cpu::CacheRead& cache : bounds.caches) {
      EXPECT_GT(cache.gb_per_s, 0.01);
      EXPECT_LT(cache.gb_per_s, 1e6);
    }
    EXPECT_EQ(bounds.bf16_gflop_per_s > 0, isa == Isa::kAvx512);
  }
}

}  // namespace
}  // namespace carousel
