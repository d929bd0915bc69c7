// SPDX-License-Identifier: Apache-2.0
// How GGUF's blocks with more than one scale lie in panels of 32 rows: in as many bytes as in the file, each bit where
// the kernels want it. Shared by the packing, the unpacking and the kernels, which compile it once per instruction set,
// so all of it is inlined.
//
// A panel is a list of units of 32 rows and as many columns as a block has. A unit is:
//   d       f16 [32]               the scale
//   dmin    f16 [32]               the scale of minima, where the type has minima
//   words   u32 [kWords][32]       the scales of sub-blocks as the file packs them, 4 bytes of a row's at a time
//   halves  u16 [kHalves][32]      the same, 2 bytes
//   codes   [values / 32] times the planes of 32 columns:
//     low   u32 [kLowBits][32]     the codes' low 4 or 2 bits
//     high  u32 [kHighBits][32]    their upper 1 or 2 bits, where they have more
// A group is four columns, whose codes are the four bytes of a word. The planes of 32 columns hold groups 0 to 7:
//   of 4 bits  word g % 4, bits 4 * (g / 4) of each byte
//   of 2 bits  word g / 4, bits 2 * (g % 4) of each byte
//   of 1 bit   the word, bit g of each byte
//
// A value is scale * (code - kZero) - min, with a scale and a minimum per sub-block: d and dmin times small integers,
// which is exact in f32. I, the type of words, is int32_t or a vector of them.
#pragma once

#include <cstdint>

#include "carousel/core/dtype.h"
#include "carousel/core/quant_blocks.h"

#define BLOCK_INLINE __attribute__((always_inline)) inline

namespace carousel::ops::block_forms {

constexpr int64_t kRows = 32;       // of a panel
constexpr int64_t kColumns = 32;    // of a group of planes
constexpr int64_t kHalfBytes = 64;  // of 32 f16 or u16
constexpr int64_t kWordBytes = 128;

/// Which scale a row of x is rounded with before this type: see XScale in rounded_rows_cpu.h.
enum class Rounding : uint8_t { kPeak, kPower };

/// What most types have; each names what it has otherwise.
struct Form {
  static constexpr int64_t kValues = 256, kSub = 32;  // columns of a unit, and those that share a scale
  static constexpr int kLowBits = 4, kHighBits = 0;
  static constexpr int kZero = 0;
  static constexpr bool kHasMin = false;
  static constexpr bool kAddsMin = false;  // dmin is added, not subtracted
  static constexpr int kWords = 0, kHalves = 0;
  static constexpr bool kLevels = false;  // a code is the index of a level (kIq4Levels), and kZero is in those
  static constexpr Rounding kRounding = Rounding::kPower;
  /// The multiples of d and dmin that sub-block s has.
  template <class I>
  BLOCK_INLINE static I scale_code(const I*, int) {
    return I{} + 1;
  }
  template <class I>
  BLOCK_INLINE static I min_code(const I*, int) {
    return I{} + 1;
  }
};

/// Byte i of each word.
template <class I>
BLOCK_INLINE I byte_of(I words, int i) {
  return (words >> (8 * i)) & 255;
}

struct Q41 : Form {
  static constexpr DType kType = DType::kQ41;
  static constexpr int64_t kValues = 32;
  static constexpr bool kHasMin = true, kAddsMin = true;
};
struct Q50 : Form {
  static constexpr DType kType = DType::kQ50;
  static constexpr int64_t kValues = 32;
  static constexpr int kHighBits = 1, kZero = 16;
  static constexpr Rounding kRounding = Rounding::kPeak;
};
struct Q51 : Form {
  static constexpr DType kType = DType::kQ51;
  static constexpr int64_t kValues = 32;
  static constexpr int kHighBits = 1;
  static constexpr bool kHasMin = true, kAddsMin = true;
  static constexpr Rounding kRounding = Rounding::kPeak;
};
struct Q4K : Form {  // eight scales and eight minima of 6 bits in 12 bytes
  static constexpr DType kType = DType::kQ4K;
  static constexpr bool kHasMin = true;
  static constexpr int kWords = 3;
  template <class I>
  BLOCK_INLINE static I scale_code(const I* words, int s) {
    return byte_of(s < 4 ? words[0] & 0x3F3F3F3F : (words[2] & 0x0F0F0F0F) | ((words[0] >> 2) & 0x30303030), s % 4);
  }
  template <class I>
  BLOCK_INLINE static I min_code(const I* words, int s) {
    return byte_of(s < 4 ? words[1] & 0x3F3F3F3F : ((words[2] >> 4) & 0x0F0F0F0F) | ((words[1] >> 2) & 0x30303030),
                   s % 4);
  }
};
struct Q5K : Q4K {
  static constexpr DType kType = DType::kQ5K;
  static constexpr int kHighBits = 1;
  static constexpr Rounding kRounding = Rounding::kPeak;
};
struct Q6K : Form {  // sixteen signed bytes
  static constexpr DType kType = DType::kQ6K;
  static constexpr int64_t kSub = 16;
  static constexpr int kHighBits = 2, kZero = 32, kWords = 4;
  static constexpr Rounding kRounding = Rounding::kPeak;
  template <class I>
  BLOCK_INLINE static I scale_code(const I* words, int s) {
    return (words[s / 4] << (24 - 8 * (s % 4))) >> 24;
  }
};
struct Q3K : Form {  // sixteen scales of 6 bits, 32 above their value, in 12 bytes
  static constexpr DType kType = DType::kQ3K;
  static constexpr int64_t kSub = 16;
  static constexpr int kLowBits = 2, kHighBits = 1, kZero = 4, kWords = 3;
  template <class I>
  BLOCK_INLINE static I scale_code(const I* words, int s) {
    const I low = s < 8 ? words[s / 4] & 0x0F0F0F0F : (words[s / 4 - 2] >> 4) & 0x0F0F0F0F;
    const I high = (s < 8 ? words[2] << (s < 4 ? 4 : 2) : words[2] >> (s < 12 ? 0 : 2)) & 0x30303030;
    return byte_of(low | high, s % 4) - 32;
  }
};
struct Q2K : Form {  // sixteen bytes, each a scale and a minimum of 4 bits
  static constexpr DType kType = DType::kQ2K;
  static constexpr int64_t kSub = 16;
  static constexpr int kLowBits = 2, kWords = 4;
  static constexpr bool kHasMin = true;
  template <class I>
  BLOCK_INLINE static I scale_code(const I* words, int s) {
    return (words[s / 4] >> (8 * (s % 4))) & 15;
  }
  template <class I>
  BLOCK_INLINE static I min_code(const I* words, int s) {
    return (words[s / 4] >> (8 * (s % 4) + 4)) & 15;
  }
};
struct Iq4Nl : Form {
  static constexpr DType kType = DType::kIQ4NL;
  static constexpr int64_t kValues = 32;
  static constexpr int kZero = 128;
  static constexpr bool kLevels = true;
};
struct Iq4Xs : Form {  // eight scales of 6 bits, 32 above their value: low halves in the word, high bits in the half
  static constexpr DType kType = DType::kIQ4XS;
  static constexpr int kZero = 128, kWords = 1, kHalves = 1;
  static constexpr bool kLevels = true;
  template <class I>
  BLOCK_INLINE static I scale_code(const I* words, int s) {
    return (((words[0] >> (4 * s)) & 15) | (((words[1] >> (2 * s)) & 3) << 4)) - 32;
  }
};

// Sizes and places within a unit.
template <class F>
constexpr int64_t kFirstWord = kHalfBytes*(F::kHasMin ? 2 : 1);
template <class F>
constexpr int64_t kFirstCode = kFirstWord<F> + F::kWords* kWordBytes + F::kHalves* kHalfBytes;
template <class F>
constexpr int64_t kPlaneBytes = (F::kLowBits + F::kHighBits) * kWordBytes;
template <class F>
constexpr int64_t kUnitBytes = kFirstCode<F> + F::kValues / kColumns* kPlaneBytes<F>;

/// The codes of group g. read(offset) gives the words at a byte offset from the planes; of levels it is their index.
template <class F, class Read>
BLOCK_INLINE auto group_codes(int g, const Read& read) {
  auto codes = F::kLowBits == 4 ? (read(g % 4 * kWordBytes) >> (g < 4 ? 0 : 4)) & 0x0F0F0F0F
                                : (read(g / 4 * kWordBytes) >> (2 * (g % 4))) & 0x03030303;
  if constexpr (F::kHighBits > 0) {
    constexpr int32_t kMask = (F::kHighBits == 1 ? 0x01010101 : 0x03030303) << F::kLowBits;
    const int at = F::kHighBits == 1 ? g : 2 * (g % 4);  // where the bits are; they belong at kLowBits
    const auto high = read((F::kLowBits + (F::kHighBits == 1 ? 0 : g / 4)) * kWordBytes);
    codes = codes | ((at < F::kLowBits ? high << (F::kLowBits - at) : high >> (at - F::kLowBits)) & kMask);
  }
  return codes;
}

/// Calls f(F()) for the form of a block type that is no simple block.
template <class Call>
BLOCK_INLINE void with_form(DType dtype, const Call& f) {
  switch (dtype) {
    case DType::kQ41:
      return f(Q41());
    case DType::kQ50:
      return f(Q50());
    case DType::kQ51:
      return f(Q51());
    case DType::kQ2K:
      return f(Q2K());
    case DType::kQ3K:
      return f(Q3K());
    case DType::kQ4K:
      return f(Q4K());
    case DType::kQ5K:
      return f(Q5K());
    case DType::kQ6K:
      return f(Q6K());
    case DType::kIQ4NL:
      return f(Iq4Nl());
    case DType::kIQ4XS:
      return f(Iq4Xs());
    default:
      return;
  }
}

}  // namespace carousel::ops::block_forms
