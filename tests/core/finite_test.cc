// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace carousel {
namespace {

template <class Value>
std::vector<std::byte> bytes_of(Value value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

struct Kind {
  DType dtype;
  std::vector<std::byte> finite;            // the largest finite value: its neighbour is infinity
  std::vector<std::vector<std::byte>> bad;  // infinities and NaNs
};

std::vector<Kind> kinds() {
  const auto half = [](uint16_t bits) { return bytes_of(bits); };
  const double infinite = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  return {{DType::kF32,
           bytes_of(-std::numeric_limits<float>::max()),
           {bytes_of(static_cast<float>(infinite)), bytes_of(static_cast<float>(-infinite)), bytes_of(std::nanf(""))}},
          {DType::kF16, half(0x7BFF), {half(0x7C00), half(0xFC00), half(0x7E01)}},
          {DType::kBF16, half(0xFF7F), {half(0x7F80), half(0xFF80), half(0x7F81)}},
          {DType::kF64,
           bytes_of(std::numeric_limits<double>::max()),
           {bytes_of(infinite), bytes_of(-infinite), bytes_of(nan)}}};
}

// Lengths below, at and above the blocks that are tested at once, from an address that no vector is aligned to.
TEST(Finite, TheFirstBadValueIsFoundAtEveryPlace) {
  for (const Kind& kind : kinds()) {
    const size_t size = kind.finite.size();
    for (const size_t count : {size_t{1}, size_t{63}, size_t{256}, size_t{600}}) {
      std::vector<std::byte> buffer(1 + count * size);
      const auto put = [&](size_t i, const std::vector<std::byte>& value) {
        std::memcpy(buffer.data() + 1 + i * size, value.data(), size);
      };
      const auto found = [&] { return first_not_finite(buffer.data() + 1, kind.dtype, static_cast<int64_t>(count)); };
      for (size_t i = 0; i < count; ++i) put(i, kind.finite);
      EXPECT_EQ(found(), std::nullopt) << dtype_name(kind.dtype);
      for (size_t i = 0; i < count; ++i) {
        put(i, kind.bad[i % kind.bad.size()]);
        if (i + 1 < count) put(count - 1, kind.bad[0]);
        EXPECT_EQ(found(), static_cast<int64_t>(i)) << dtype_name(kind.dtype) << " of " << count;
        put(i, kind.finite);
        put(count - 1, kind.finite);
      }
    }
  }
}

}  // namespace
}  // namespace carousel
