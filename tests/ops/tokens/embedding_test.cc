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

namespace carousel {
namespace {

Tensor tokens_of(const std::vector<int32_t>& ids) {
  Tensor tokens({static_cast<int64_t>(ids.size())}, DType::kI32);
  if (!ids.empty()) std::memcpy(tokens.raw(), ids.data(), ids.size() * sizeof(int32_t));
  return tokens;
}

TEST(Embedding, RowsOfTheTable) {
  ThreadPool pool(2);
  const int64_t V = 70, D = 37;
  for (const Isa isa : cpu::runnable_isas()) {
    const Stream stream{&Memory::host(), isa, &pool};
    Arena arena;
    Ctx ctx{stream, arena};
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      std::vector<float> values(static_cast<size_t>(V * D));
      Rng rng(3);
      for (float& value : values) value = static_cast<float>(rng.normal());
      std::vector<std::byte> stored(values.size() * dtype_size(dtype));
      narrow(values.data(), dtype, stored.data(), values.size());
      widen(stored.data(), dtype, values.data(), values.size());
      for (const Weight::Layout layout : {Weight::Layout::kPanels, Weight::Layout::kRows}) {
        Weight table(V, D, dtype, layout);
        table.write_rows(stream, 0, V, stored.data());
        const std::vector<int32_t> ids = {0, 69, 31, 32, 5, 5, 64};
        const Tensor x = ops::embedding(ctx, tokens_of(ids), table);
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

TEST(Embedding, RefusesIdsOutOfRange) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), Isa::kPortable, &pool};
  Arena arena;
  Ctx ctx{stream, arena};
  const Weight table(10, 4, DType::kF32, Weight::Layout::kRows);
  for (const int32_t bad : {-1, 10, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    try {
      ops::embedding(ctx, tokens_of({3, bad}), table);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_NE(std::string(error.what()).find("id " + std::to_string(bad)), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(ops::embedding(ctx, Tensor({2}, DType::kF32), table), Error);
  EXPECT_THROW(ops::embedding(ctx, Tensor({2, 1}, DType::kI32), table), Error);
  EXPECT_THROW(ops::embedding(ctx, tokens_of({0}), Weight()), Error);
  EXPECT_EQ(ops::embedding(ctx, tokens_of({}), table).shape(), (Shape{0, 4}));
}

}  // namespace
}  // namespace carousel
