// SPDX-License-Identifier: Apache-2.0
// The search for values that are not finite, in floats and in blocks.
#include "carousel/core/finite.h"

#include <algorithm>
#include <cstring>

namespace carousel {
namespace {

// Infinity and NaN have all exponent bits set. Blocks are looked at without a branch per value, then searched.
template <class Word>
std::optional<int64_t> first_with_exponent(const void* values, int64_t count, Word exponent) {
  constexpr int64_t kBlock = 512;
  const auto has_exponent = [&](int64_t i) {
    Word word;
    std::memcpy(&word, static_cast<const char*>(values) + static_cast<size_t>(i) * sizeof(Word), sizeof word);
    return static_cast<Word>(word & exponent) == exponent;
  };
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    bool found = false;
    for (int64_t i = begin; i < end; ++i) found |= has_exponent(i);
    for (int64_t i = begin; found && i < end; ++i) {
      if (has_exponent(i)) return i;
    }
  }
  return std::nullopt;
}

// The scale of a block decides for all its values.
std::optional<int64_t> first_bad_block(const void* values, DType dtype, int64_t count) {
  const size_t block_bytes = dtype_bytes(dtype, kBlockValues);
  const int64_t blocks = static_cast<int64_t>(dtype_bytes(dtype, static_cast<size_t>(count)) / block_bytes);
  for (int64_t i = 0; i < blocks; ++i) {
    uint16_t scale;
    std::memcpy(&scale, static_cast<const char*>(values) + static_cast<size_t>(i) * block_bytes, sizeof scale);
    if ((scale & 0x7C00) == 0x7C00) return i * static_cast<int64_t>(kBlockValues);
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> first_not_finite(const void* values, DType dtype, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return first_with_exponent(values, count, uint32_t{0x7F800000});
    case DType::kF16:
      return first_with_exponent(values, count, uint16_t{0x7C00});
    case DType::kBF16:
      return first_with_exponent(values, count, uint16_t{0x7F80});
    case DType::kF64:
      return first_with_exponent(values, count, uint64_t{0x7FF0000000000000});
    case DType::kQ8:
    case DType::kQ4:
      return first_bad_block(values, dtype, count);
    default:
      return std::nullopt;
  }
}

}  // namespace carousel
