// SPDX-License-Identifier: Apache-2.0
// Dropout against the generator of core/rng.h, and what it owes: an element is known by its place in the run alone.
#include "carousel/ops/dropout/dropout.h"

#include <gtest/gtest.h>

#include <set>

#include "carousel/core/error.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

constexpr uint64_t kOfDropout = 0x64726f706f757421;

/// Whether an element is kept, from the words of one block of Philox.
bool kept(const ops::Dropout& how, int64_t row, int64_t place, int64_t sublayer, int64_t column, int64_t D) {
  const int64_t tiles = (D + 63) / 64, tile = column / 64, word = column % 64 / 16, group = column % 16;
  const auto block = static_cast<uint64_t>((place * tiles + tile) * 16 + group);
  const auto stream = static_cast<uint64_t>(row) << 16 | static_cast<uint64_t>(sublayer);
  const uint32_t bits = philox(how.seed ^ kOfDropout, stream, block)[static_cast<size_t>(word)];
  return double{bits * 0x1p-32} >= double{how.share};
}

ops::Dropout dropout_of(std::vector<ops::Dropout::Span> spans) { return {0.25f, 99, std::move(spans)}; }

TEST(Dropout, IsAFunctionOfThePlaceInTheRun) {
  const int64_t far = (int64_t{1} << 48) - 1, deep = int64_t{1} << 33;
  const ops::Dropout how = dropout_of({{0, 3, 0}, {70, far, 0}, {71, 4, deep}});
  for (const Isa isa : tested_isas()) {
    for (const int64_t D : {1, 16, 63, 64, 75, 256}) {
      Machine m(isa);
      const Tensor x = random_tensor({130, D}, 1), y = ops::dropout(m.ctx, x, how, 5);
      for (int64_t n = 0; n < 130; ++n) {
        const int64_t row = n < 70 ? 3 : n < 71 ? far : 4, place = n < 70 ? n : n < 71 ? 0 : deep + n - 71;
        for (int64_t j = 0; j < D; ++j) {
          const float scale = kept(how, row, place, 5, j, D) ? 1 / 0.75f : 0;
          ASSERT_EQ(y.f32()[n * D + j], x.f32()[n * D + j] * scale) << n << " " << j << " of " << D;
        }
      }
    }
  }
}

TEST(Dropout, DropsTheShareAndNoTwoPlacesAlike) {
  Machine m;
  const Tensor ones = random_tensor({1000, 64}, 1, 0, 1);
  std::set<std::vector<float>> masks;
  for (const int64_t row : {0, 1}) {
    for (const int64_t sublayer : {0, 1}) {
      const Tensor y = ops::dropout(m.ctx, ones, dropout_of({{0, row, 0}}), sublayer);
      int64_t dropped = 0;
      for (int64_t i = 0; i < y.count(); ++i) dropped += y.f32()[i] == 0;
      EXPECT_NEAR(static_cast<double>(dropped) / static_cast<double>(y.count()), 0.25, 0.01);  // 6 deviations
      for (int64_t n = 0; n < 1000; ++n) masks.emplace(y.f32() + n * 64, y.f32() + (n + 1) * 64);
    }
  }
  EXPECT_EQ(masks.size(), 4000u);
}

TEST(Dropout, ThreadsAndCutsChangeNoBit) {
  const Tensor x = random_tensor({3000, 75}, 1);
  Machine one(cpu::best_isa(), 1), three(cpu::best_isa(), 3);
  const Tensor want = ops::dropout(one.ctx, x, dropout_of({{0, 8, 0}, {1000, 9, 0}}), 2);
  EXPECT_TRUE(same_bits(ops::dropout(three.ctx, x, dropout_of({{0, 8, 0}, {1000, 9, 0}}), 2), want));
  const Tensor part = ops::dropout(one.ctx, x.rows(700, 2100), dropout_of({{0, 8, 700}, {300, 9, 0}}), 2);
  EXPECT_TRUE(same_bits(part.f32(), want.f32() + 700 * 75, part.count()));
}

TEST(Dropout, TheGradientPassesWhereElementsDo) {
  for (const Isa isa : tested_isas()) {
    Taped t(isa);
    const ops::Dropout how = dropout_of({{0, 8, 0}, {40, 9, 0}});
    const Tensor values = random_tensor({131, 75}, 1), x = t.input(values), d = random_tensor({131, 75}, 2);
    const Tensor y = ops::dropout(t.ctx, x, how, 2);
    Machine plain(isa);
    EXPECT_TRUE(same_bits(y, ops::dropout(plain.ctx, values, how, 2)));
    t.backward({{y, d}});
    EXPECT_TRUE(same_bits(t.gradient(x), ops::dropout(plain.ctx, d, how, 2)));  // it is linear, and its own transpose
  }
}

TEST(Dropout, TakesNoRows) {
  Taped t;
  EXPECT_EQ(ops::dropout(t.ctx, t.input(Tensor(Shape{0, 8}, DType::kF32)), dropout_of({}), 0).dim(0), 0);
  EXPECT_THROW(ops::dropout(t.ctx, random_tensor({3}, 1), dropout_of({{0, 0, 0}}), 0), Error);
}

}  // namespace
}  // namespace carousel
