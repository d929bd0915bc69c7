// SPDX-License-Identifier: Apache-2.0
// Token look-up in both layouts and every dtype, and its refusals.
#include "carousel/ops/tokens/embedding.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

/// What an Error of kInput or kShape says.
template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == ErrorKind::kInput || error.kind() == ErrorKind::kShape);
    return error.what();
  }
  return "";
}

TEST(Embedding, RowsOfTheTable) {
  const int64_t V = 70, D = 37;
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    Ctx& ctx = machine.ctx;
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      std::vector<float> values(static_cast<size_t>(V * D));
      Rng rng(3);
      for (float& value : values) value = static_cast<float>(rng.normal());
      std::vector<std::byte> stored(values.size() * dtype_size(dtype));
      narrow(values.data(), dtype, stored.data(), values.size());
      widen(stored.data(), dtype, values.data(), values.size());
      for (const Weight::Layout layout : {Weight::Layout::kPanels, Weight::Layout::kRows}) {
        Weight table(V, D, dtype, layout, machine.memory());
        table.write_rows(machine.stream, 0, V, stored.data());
        const std::vector<int32_t> ids = {0, 69, 31, 32, 5, 5, 64};
        const Tensor x = ops::embedding(ctx, ops::token_ids(ctx, ids, V), table).to_host();
        ASSERT_EQ(x.shape(), (Shape{7, D}));
        for (size_t n = 0; n < ids.size(); ++n) {
          EXPECT_EQ(std::memcmp(x.f32() + static_cast<int64_t>(n) * D, values.data() + ids[n] * D,
                                static_cast<size_t>(D) * sizeof(float)),
                    0)
              << dtype_name(dtype) << " token " << n;
        }
      }
    }
  }
}

TEST(Embedding, RowsOfBlocks) {
  const int64_t V = 9;
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    for (const DType dtype : {DType::kQ8, DType::kQ4}) {
      for (const int64_t D : {5, 32, 100}) {
        Weight table(V, D, dtype, Weight::Layout::kRows, machine.memory());
        std::vector<float> values(static_cast<size_t>(V * D));
        Rng rng(3);
        for (float& value : values) value = static_cast<float>(rng.normal());
        table.write_rows(machine.stream, 0, V, values.data(), DType::kF32);
        table.read_rows(0, V, values.data());
        const std::vector<int32_t> ids = {0, 8, 3, 3};
        const Tensor x = ops::embedding(machine.ctx, ops::token_ids(machine.ctx, ids, V), table).to_host();
        for (size_t n = 0; n < ids.size(); ++n) {
          EXPECT_TRUE(same_bits(x.f32() + static_cast<int64_t>(n) * D, values.data() + ids[n] * D, D))
              << target << " " << dtype_name(dtype) << " D " << D << " token " << n;
        }
      }
    }
  }
}

TEST(Ids, OutOfRangeAreRefused) {
  const Stream stream{};
  Arena arena;
  Ctx ctx{stream, arena};
  const std::vector<int32_t> edges = {0, 9};
  EXPECT_EQ(ops::token_ids(ctx, edges, 10).count(), 2);
  for (const int32_t bad : {-1, 10, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    const std::vector<int32_t> ids = {3, bad};
    const std::string number = std::to_string(bad);
    EXPECT_EQ(message_of([&] { ops::token_ids(ctx, ids, 10); }),
              "ops::embedding: token 1 is id " + number + ", expected 0 to 9");
    EXPECT_EQ(message_of([&] { ops::target_ids(ctx, ids, 10); }),
              "ops::cross_entropy: target 1 is " + number + ", expected 0 to 9");
  }
}

TEST(Embedding, TakesIdsOfItsTableAlone) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  Arena arena;
  Ctx ctx{stream, arena};
  const Weight table(10, 4, DType::kF32, Weight::Layout::kRows);
  const std::vector<int32_t> ids = {0, 3};
  EXPECT_EQ(message_of([&] { ops::embedding(ctx, ops::token_ids(ctx, ids, 11), table); }),
            "ops::embedding: table is [10, 4], expected [11, *] (bound of the tokens)");
  EXPECT_EQ(ops::embedding(ctx, ops::token_ids(ctx, ids, 4), table).shape(), (Shape{2, 4}));
  EXPECT_THROW(ops::embedding(ctx, ops::token_ids(ctx, ids, 10), Weight()), Error);
  EXPECT_EQ(ops::embedding(ctx, ops::token_ids(ctx, {}, 10), table).shape(), (Shape{0, 4}));
}

}  // namespace
}  // namespace carousel
