// SPDX-License-Identifier: Apache-2.0
// The search for values that are not finite, in floats and in blocks.
#include "carousel/core/finite.h"

#include <algorithm>
#include <cstring>

#include "carousel/core/quant_blocks.h"

namespace carousel {
namespace {

// Infinity and NaN have all exponent bits set. Blocks of values are tested with vectors that every 64-bit machine has:
// compilers leave a loop over single values scalar here. A block that fails is searched.
template <class Word>
std::optional<int64_t> first_with_exponent(const void* values, int64_t count, Word exponent) {
  typedef Word Vec __attribute__((vector_size(16)));
  constexpr int64_t kInVec = 16 / sizeof(Word), kBlock = 32 * kInVec;
  const auto* const bytes = static_cast<const char*>(values);
  const auto has_exponent = [&](int64_t i) {
    Word word;
    std::memcpy(&word, bytes + static_cast<size_t>(i) * sizeof(Word), sizeof word);
    return static_cast<Word>(word & exponent) == exponent;
  };
  int64_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock) {
    Vec found[4] = {};  // four chains
    for (int64_t i = 0; i < kBlock; i += 4 * kInVec) {
      for (int64_t chain = 0; chain < 4; ++chain) {
        Vec words;
        std::memcpy(&words, bytes + static_cast<size_t>(begin + i + chain * kInVec) * sizeof(Word), sizeof words);
        found[chain] |= reinterpret_cast<Vec>((words & exponent) == exponent);
      }
    }
    uint64_t any[2];
    const Vec all = found[0] | found[1] | found[2] | found[3];
    std::memcpy(any, &all, sizeof any);
    if ((any[0] | any[1]) != 0) break;
  }
  for (int64_t i = begin; i < count; ++i) {
    if (has_exponent(i)) return i;
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
