// SPDX-License-Identifier: Apache-2.0
// The search for values that are not finite, in floats and in blocks.
#include "carousel/core/finite.h"

#include <algorithm>
#include <cstring>

#include "carousel/core/quant_blocks.h"

namespace carousel {
namespace {

// Infinity and NaN have all exponent bits set. Stretches of values are tested without a branch per value; the first one
// that fails is searched.
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

// The scales of a block decide for all its values.
std::optional<int64_t> first_bad_block(const void* values, DType dtype, int64_t count) {
  const size_t in_block = block_values(dtype), block_bytes = dtype_bytes(dtype, in_block);
  const auto blocks = static_cast<int64_t>(dtype_bytes(dtype, static_cast<size_t>(count)) / block_bytes);
  const BlockForm& form = block_form(dtype);
  const char* block = static_cast<const char*>(values);
  for (int64_t i = 0; i < blocks; ++i, block += block_bytes) {
    for (size_t s = 0; s < form.scales; ++s) {
      uint16_t scale;
      std::memcpy(&scale, block + form.scale + s * sizeof scale, sizeof scale);
      if ((scale & 0x7C00) == 0x7C00) return i * static_cast<int64_t>(in_block);
    }
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
    default:
      return is_block(dtype) ? first_bad_block(values, dtype, count) : std::nullopt;
  }
}

}  // namespace carousel
