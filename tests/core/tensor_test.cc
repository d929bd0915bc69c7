// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>

#include "carousel/core/error.h"
#include "tests/like_host.h"

namespace carousel {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Shape, CountsAndPrints) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.count(), 24);
  EXPECT_EQ(shape[-1], 4);
  EXPECT_EQ(shape.str(), "[2, 3, 4]");
  EXPECT_EQ(Shape{}.count(), 1);
  EXPECT_EQ((Shape{5, 0}.count()), 0);
  EXPECT_FALSE((shape == Shape{2, 3}));
  EXPECT_FALSE((shape == Shape{2, 3, 5}));
}

TEST(Shape, ImpossibleCountsAreRefused) {
  EXPECT_EQ(message_of([] { Shape{-1}.count(); }), "shape: [-1] has no valid element count");
  const int64_t huge = std::numeric_limits<int64_t>::max();
  EXPECT_THROW((Shape{huge, 2}.count()), Error);
  EXPECT_THROW((Tensor({huge / 2}, DType::kF32)), Error);
  EXPECT_THROW((Tensor({huge / 2, 1}, DType::kF64, Memory::meta())), Error);
  EXPECT_EQ(message_of([] { Shape({1, 1, 1, 1, 1, 1, 1}); }), "shape: got more than 6 dimensions");
}

TEST(Tensor, IsFreshZeroedAndAligned) {
  for (const int64_t count : {int64_t{1}, int64_t{1000}, int64_t{1} << 20, (int64_t{1} << 20) + 1}) {
    const Tensor tensor({count}, DType::kF32);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % 64, 0u);
    for (const int64_t i : {int64_t{0}, count / 2, count - 1}) EXPECT_EQ(tensor.f32()[i], 0);
    tensor.f32()[count - 1] = 1;
  }
}

TEST(Tensor, CopiesAliasAndClonesDoNot) {
  const Tensor tensor({2, 2}, DType::kF32);
  const Tensor alias = tensor;
  const Tensor copy = tensor.clone();
  tensor.f32()[3] = 7;
  EXPECT_EQ(alias.f32()[3], 7);
  EXPECT_EQ(copy.f32()[3], 0);
  EXPECT_EQ(tensor.owners(), 2);
}

TEST(Tensor, RowsAndReshapeAreViews) {
  Tensor tensor({4, 3}, DType::kF32);
  for (int i = 0; i < 12; ++i) tensor.f32()[i] = static_cast<float>(i);
  const Tensor rows = tensor.rows(1, 3);
  EXPECT_TRUE((rows.shape() == Shape{2, 3}));
  EXPECT_EQ(rows.f32()[0], 3);
  EXPECT_EQ(rows.reshape({6}).f32()[5], 8);
  EXPECT_EQ(tensor.rows(4, 4).count(), 0);
  tensor = Tensor();
  EXPECT_EQ(rows.f32()[0], 3) << "a view keeps its storage alive";
}

TEST(Tensor, EmptyAndMetaHoldNoMemory) {
  EXPECT_FALSE(Tensor().defined());
  const Tensor none({0, 5}, DType::kF32);
  EXPECT_TRUE(none.defined());
  EXPECT_EQ(none.clone().count(), 0);
  EXPECT_EQ(none.to_f32().count(), 0);
  const Tensor meta({int64_t{1} << 40, 4}, DType::kF32, Memory::meta());
  EXPECT_EQ(meta.raw(), nullptr);
  EXPECT_EQ(meta.size_bytes(), size_t{1} << 44);
  EXPECT_EQ(meta.rows(0, 2).size_bytes(), 32u);
}

TEST(Tensor, WidensToF32) {
  Tensor half({2}, DType::kF16);
  const float values[] = {1.5f, -3};
  narrow(values, DType::kF16, half.raw(), 2);
  EXPECT_EQ(half.to_f32().f32()[1], -3);
  EXPECT_THROW(Tensor({1}, DType::kI32).to_f32(), Error);
}

TEST(Tensor, OverKeepsTheOwnerAlive) {
  auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2});
  const std::weak_ptr<std::vector<float>> watch = owner;
  {
    const Tensor view = Tensor::over(owner, owner->data(), {2}, DType::kF32);
    owner.reset();
    EXPECT_EQ(view.f32()[1], 2);
  }
  EXPECT_TRUE(watch.expired());
}

TEST(TensorDeathTest, TheWrongAccessorAborts) {
  const Tensor tensor({1}, DType::kI32);
  EXPECT_DEATH(tensor.f32(), "broken invariant");
  EXPECT_DEATH(tensor.rows(1, 2), "broken invariant");
  EXPECT_DEATH(tensor.reshape({2}), "broken invariant");
}

// A memory whose bytes the host has no business with.
class Elsewhere final : public LikeHost {
 public:
  Device device() const override { return Device::kMeta; }
};

TEST(TensorDeathTest, AccessorsAreOfTheHost) {
  Elsewhere elsewhere;
  const Tensor there({1}, DType::kF32, elsewhere), ids({1}, DType::kI32, elsewhere);
  EXPECT_NE(there.raw(), nullptr);
  EXPECT_DEATH(there.f32(), "broken invariant");
  EXPECT_DEATH(ids.i32(), "broken invariant");
  EXPECT_EQ(there.to_host().f32()[0], 0.0f);
  EXPECT_EQ(Tensor({1}, DType::kF32, Memory::meta()).f32(), nullptr);
}

TEST(Arena, ASteadyLoopReusesItsBlocks) {
  Arena arena;
  const auto step = [&] {
    const Tensor a = arena.empty({16, 33});
    const Tensor b = arena.zeros({100}, DType::kI32);
    EXPECT_NE(a.raw(), b.raw()) << "a block in use is never handed out";
    std::memset(b.raw(), 0xFF, b.size_bytes());
  };
  step();
  const size_t reserved = arena.size_bytes();
  for (int i = 0; i < 10; ++i) step();
  EXPECT_EQ(arena.size_bytes(), reserved);
}

TEST(Arena, ZerosClearsWhatAnEarlierTensorLeft) {
  Arena arena;
  std::memset(arena.empty({64}).raw(), 0xFF, 256);
  EXPECT_EQ(arena.zeros({64}).f32()[63], 0);
}

TEST(Arena, ATightOneGivesNoLargeBlockToASmallTensor) {
  Arena arena;
  arena.fit_tightly();
  arena.empty({1 << 20});
  const size_t large = arena.size_bytes();
  const Tensor kept = arena.empty({1000});
  EXPECT_GT(arena.size_bytes(), large);
  const size_t both = arena.size_bytes();
  EXPECT_LE(both - large, 5120u);
  const Tensor near = arena.empty({900000});  // more than four fifths of the large one
  EXPECT_EQ(arena.size_bytes(), both);
}

TEST(Arena, TrimKeepsWhatIsHeld) {
  Arena arena;
  const Tensor held = arena.zeros({10});
  arena.empty({1000});
  arena.empty({100000});
  arena.trim();
  EXPECT_EQ(arena.size_bytes(), 1024u);
  held.f32()[9] = 1;
  const Tensor outlived = [] { return Arena().zeros({4}); }();
  EXPECT_EQ(outlived.f32()[3], 0);
}

TEST(TensorId, ANameKeepsNoMemory) {
  Arena arena;
  const Tensor tensor = arena.empty({4, 6});
  const long owners = tensor.owners();
  const Tensor name = tensor.name();
  EXPECT_EQ(tensor.owners(), owners);
  EXPECT_EQ(name.id(), tensor.id());
  EXPECT_EQ(name.shape(), tensor.shape());
  EXPECT_EQ(name.raw(), nullptr);
}

TEST(TensorId, CopiesAndViewsKeepIt) {
  Arena arena;
  const Tensor tensor = arena.empty({4, 6});
  EXPECT_NE(tensor.id(), 0u);
  const Tensor copy = tensor;
  Tensor assigned;
  assigned = tensor;
  for (const Tensor& same : {copy, assigned, tensor.rows(1, 3), tensor.reshape({24}), tensor.to_host()}) {
    EXPECT_EQ(same.id(), tensor.id());
  }
}

TEST(TensorId, TwoTensorsOfOneBlockDiffer) {
  Arena arena;
  Tensor tensor = arena.empty({100});
  const void* const block = tensor.raw();
  const uint64_t first = tensor.id();
  tensor = Tensor();
  tensor = arena.zeros({100});
  ASSERT_EQ(tensor.raw(), block) << "the block went back and out again";
  EXPECT_NE(tensor.id(), first);
  EXPECT_NE(arena.empty({100}).id(), tensor.id());
}

TEST(TensorId, IsZeroForWhatComesFromNoArena) {
  Arena arena;
  const Tensor fresh({2}, DType::kF32), from_arena = arena.zeros({2});
  const auto storage = std::make_shared<Storage>(Memory::host(), 64);
  EXPECT_EQ(Tensor().id(), 0u);
  EXPECT_EQ(fresh.id(), 0u);
  EXPECT_EQ(Tensor(storage, 0, {2}, DType::kF32).id(), 0u);
  EXPECT_EQ(from_arena.clone().id(), 0u) << "other storage is another tensor";
  EXPECT_EQ(from_arena.to_f32().id(), 0u);
  EXPECT_EQ(Arena(Memory::meta()).empty({2}).id(), 1u);
}

TEST(CheckShape, NamesWhatItGotAndExpected) {
  const Tensor w({512, 768}, DType::kF32);
  check_shape("ops::linear", "w", w, {-1, 768});
  EXPECT_EQ(message_of([&] {
              check_shape("ops::linear", "w", w, {-1, 1024});
            }),
            "ops::linear: w is [512, 768], expected [*, 1024]");
  EXPECT_EQ(message_of([&] { check_shape("ops::linear", "w", w, {512}); }),
            "ops::linear: w is [512, 768], expected [512]");
  check_dtype("ops::linear", "w", w, DType::kF32);
  EXPECT_EQ(message_of([&] { check_dtype("ops::linear", "w", w, DType::kI32); }),
            "ops::linear: w is F32, expected I32");
}

}  // namespace
}  // namespace carousel
