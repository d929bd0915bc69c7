// SPDX-License-Identifier: Apache-2.0
// Packing moves words of four rows at a time (transpose_cells.h) and sorts the bits of codes between them; the same
// code on single words takes the rows that are left. It runs at the speed of memory, so there is one copy for every
// machine.
#include "carousel/ops/weight/block_panels.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "carousel/cpu/prefetch.h"
#include "carousel/ops/weight/block_forms.h"
#include "carousel/ops/weight/transpose_cells.h"

namespace carousel::ops::block_forms {
namespace {

// How far ahead in each of the four rows.
constexpr size_t kPrefetchBytes = 512;

/// Blocks of one or four rows on one side, the unit that they become on the other. Cell is a word of one row, or of
/// each of four.
template <class Cell>
class Mover {
 public:
  Mover(const std::byte* block, size_t row_bytes, std::byte* unit, int64_t row)
      : block_(block), row_bytes_(row_bytes), unit_(unit), row_(static_cast<size_t>(row)) {}

  /// `count` words at byte `offset` of the block.
  template <size_t kCount>
  BLOCK_INLINE void read(size_t offset, Cell (&words)[kCount]) const {
    if constexpr (std::is_same_v<Cell, CellVec>) {
      for (size_t i = 0; i + 4 <= kCount; i += 4) {
        transpose_cells(block_ + offset + 4 * i, row_bytes_, reinterpret_cast<std::byte*>(words + i), sizeof(Cell));
      }
      for (size_t i = kCount / 4 * 4; i < kCount; ++i) {
        for (size_t r = 0; r < 4; ++r) words[i][r] = word_at(r * row_bytes_ + offset + 4 * i);
      }
    } else {
      for (size_t i = 0; i < kCount; ++i) words[i] = word_at(offset + 4 * i);
    }
  }
  /// Writes words to byte `offset` of the unit, [kRows] words on.
  BLOCK_INLINE void write(int64_t offset, const Cell& word) const {
    std::memcpy(unit_ + static_cast<size_t>(offset) + row_ * 4, &word, sizeof word);
  }
  template <size_t kCount>
  BLOCK_INLINE void write(int64_t offset, const Cell (&words)[kCount]) const {
    for (size_t i = 0; i < kCount; ++i) write(offset + static_cast<int64_t>(i) * kWordBytes, words[i]);
  }
  /// Moves the two bytes at `from` of each block to `to` of the unit, [kRows] of them on.
  BLOCK_INLINE void move_half(size_t from, int64_t to) const {
    for (size_t r = 0; r < sizeof(Cell) / 4; ++r) {
      std::memcpy(unit_ + static_cast<size_t>(to) + (row_ + r) * 2, block_ + r * row_bytes_ + from, 2);
    }
  }
  template <size_t kCount>
  BLOCK_INLINE void move_words(size_t from, int64_t to) const {
    Cell words[kCount];
    read(from, words);
    write(to, words);
  }

 private:
  BLOCK_INLINE uint32_t word_at(size_t offset) const {
    uint32_t word;
    std::memcpy(&word, block_ + offset, sizeof word);
    return word;
  }

  const std::byte* block_;
  size_t row_bytes_;
  std::byte* unit_;
  size_t row_;
};

/// Eight words, whose bytes' low halves are 32 columns and whose high halves are 32 others, as two planes of 4 bits.
template <class Cell>
BLOCK_INLINE void split_halves(const Cell* words, Cell (&low)[4], Cell (&high)[4]) {
  for (int i = 0; i < 4; ++i) {
    low[i] = (words[i] & 0x0F0F0F0Fu) | ((words[i + 4] & 0x0F0F0F0Fu) << 4);
    high[i] = ((words[i] >> 4) & 0x0F0F0F0Fu) | (words[i + 4] & 0xF0F0F0F0u);
  }
}
/// Pair `index` of bits of 32 bytes (eight words) as a plane of 2 bits.
template <class Cell>
BLOCK_INLINE void pair_plane(const Cell* words, int index, Cell (&plane)[2]) {
  for (int cell = 0; cell < 2; ++cell) {
    plane[cell] = Cell{};
    for (int p = 0; p < 4; ++p) plane[cell] |= ((words[4 * cell + p] >> (2 * index)) & 0x03030303u) << (2 * p);
  }
}
/// Bit `index` of 32 bytes (eight words) as a plane of 1 bit.
template <class Cell>
BLOCK_INLINE Cell bit_plane(const Cell* words, int index) {
  Cell plane = {};
  for (int g = 0; g < 8; ++g) plane |= ((words[g] >> index) & 0x01010101u) << g;
  return plane;
}
/// 32 bits in the order of columns as a plane of 1 bit: four neighbours go to the four bytes.
template <class Cell>
BLOCK_INLINE Cell spread_bits(Cell bits) {
  Cell plane = {};
  for (int g = 0; g < 8; ++g) {
    const Cell four = (bits >> (4 * g)) & 15u;
    plane |= ((four | four << 7 | four << 14 | four << 21) & 0x01010101u) << g;
  }
  return plane;
}

template <class F>
constexpr int64_t codes_at(int64_t block) {
  return kFirstCode<F> + block * kPlaneBytes<F>;
}

/// Blocks of 32: scales, a word of fifth bits where there are five, 16 bytes of halves.
template <class F, class Cell>
BLOCK_INLINE void move_small(const Mover<Cell>& mover) {
  constexpr size_t kScales = F::kHasMin ? 4 : 2;
  mover.move_half(0, 0);
  if constexpr (F::kHasMin) mover.move_half(2, kHalfBytes);
  mover.template move_words<4>(kScales + (F::kHighBits > 0 ? 4 : 0), kFirstCode<F>);
  if constexpr (F::kHighBits > 0) {
    Cell bits[1];
    mover.read(kScales, bits);
    mover.write(kFirstCode<F> + F::kLowBits * kWordBytes, spread_bits(bits[0]));
  }
}

template <class F, class Cell>
BLOCK_INLINE void move_q45k(const Mover<Cell>& mover) {
  constexpr bool kFive = F::kHighBits > 0;
  mover.move_half(0, 0);
  mover.move_half(2, kHalfBytes);
  mover.template move_words<3>(4, kFirstWord<F>);
  Cell fifth[8];
  if constexpr (kFive) mover.read(16, fifth);
  for (int64_t block = 0; block < 8; block += 2) {
    Cell words[8], low[4], high[4];
    mover.read((kFive ? 48 : 16) + static_cast<size_t>(block) * 16, words);
    split_halves(words, low, high);
    mover.write(codes_at<F>(block), low);
    mover.write(codes_at<F>(block + 1), high);
  }
  for (int64_t block = 0; kFive && block < 8; ++block) {
    mover.write(codes_at<F>(block) + F::kLowBits * kWordBytes, bit_plane(fifth, static_cast<int>(block)));
  }
}

template <class Cell>
BLOCK_INLINE void move_q6k(const Mover<Cell>& mover) {
  mover.move_half(208, 0);
  mover.template move_words<4>(192, kFirstWord<Q6K>);
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t pair = 0; pair < 2; ++pair) {
      Cell words[8], low[4], high[4];
      mover.read(static_cast<size_t>(64 * half + 32 * pair), words);
      split_halves(words, low, high);
      mover.write(codes_at<Q6K>(4 * half + pair), low);
      mover.write(codes_at<Q6K>(4 * half + pair + 2), high);
    }
    Cell words[8], plane[2];
    mover.read(static_cast<size_t>(128 + 32 * half), words);
    for (int quarter = 0; quarter < 4; ++quarter) {
      pair_plane(words, quarter, plane);
      mover.write(codes_at<Q6K>(4 * half + quarter) + Q6K::kLowBits * kWordBytes, plane);
    }
  }
}

/// Q2_K and Q3_K: their pairs of bits begin at byte `pairs`.
template <class F, class Cell>
BLOCK_INLINE void move_pairs(const Mover<Cell>& mover, size_t pairs) {
  for (int64_t half = 0; half < 2; ++half) {
    Cell words[8], plane[2];
    mover.read(pairs + static_cast<size_t>(32 * half), words);
    for (int quarter = 0; quarter < 4; ++quarter) {
      pair_plane(words, quarter, plane);
      mover.write(codes_at<F>(4 * half + quarter), plane);
    }
  }
}

template <class F, class Cell>
BLOCK_INLINE void move_block(const Mover<Cell>& mover) {
  if constexpr (F::kValues == 32) {
    move_small<F>(mover);
  } else if constexpr (F::kType == DType::kQ4K || F::kType == DType::kQ5K) {
    move_q45k<F>(mover);
  } else if constexpr (F::kType == DType::kQ6K) {
    move_q6k(mover);
  } else if constexpr (F::kType == DType::kQ2K) {
    mover.move_half(80, 0);
    mover.move_half(82, kHalfBytes);
    mover.template move_words<4>(0, kFirstWord<F>);
    move_pairs<F>(mover, 16);
  } else if constexpr (F::kType == DType::kQ3K) {
    mover.move_half(108, 0);
    mover.template move_words<3>(96, kFirstWord<F>);
    move_pairs<F>(mover, 32);
    Cell third[8];
    mover.read(0, third);
    for (int block = 0; block < 8; ++block) {
      mover.write(codes_at<F>(block) + F::kLowBits * kWordBytes, bit_plane(third, block));
    }
  } else {
    static_assert(F::kType == DType::kIQ4XS);
    mover.move_half(0, 0);
    mover.template move_words<1>(4, kFirstWord<F>);
    mover.move_half(2, kFirstWord<F> + kWordBytes);
    for (int64_t block = 0; block < 8; ++block) {
      mover.template move_words<4>(8 + static_cast<size_t>(block) * 16, codes_at<F>(block));
    }
  }
}

template <class F>
void pack(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols) {
  constexpr size_t kBlockBytes = static_cast<size_t>(kUnitBytes<F> / kRows);
  const int64_t units = (cols + F::kValues - 1) / F::kValues;
  const size_t row_bytes = static_cast<size_t>(units) * kBlockBytes;
  for (int64_t done = begin; done < end;) {
    const bool four = done + 4 <= end;
    const std::byte* block = rows + static_cast<size_t>(done - begin) * row_bytes;
    std::byte* unit = panel;
    for (int64_t u = 0; u < units; ++u, block += kBlockBytes, unit += kUnitBytes<F>) {
      if (four) {
        for (size_t r = 0; r < 4; ++r) {
          for (size_t i = 0; i < kBlockBytes; i += 64) cpu::prefetch_far(block + r * row_bytes + i + kPrefetchBytes);
        }
        move_block<F>(Mover<CellVec>(block, row_bytes, unit, done));
      } else {
        move_block<F>(Mover<uint32_t>(block, row_bytes, unit, done));
      }
    }
    done += four ? 4 : 1;
  }
}

template <class T>
T read_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// One row of a unit.
template <class F>
void unpack_unit(const std::byte* unit, int64_t r, float* out) {
  const float d = to_float(read_as<F16>(unit + 2 * r));
  const float dmin = F::kHasMin ? to_float(read_as<F16>(unit + kHalfBytes + 2 * r)) : 0.0f;
  int32_t words[F::kWords + F::kHalves + 1] = {};
  const std::byte* at = unit + kFirstWord<F>;
  for (int i = 0; i < F::kWords; ++i, at += kWordBytes) words[i] = read_as<int32_t>(at + 4 * r);
  for (int i = 0; i < F::kHalves; ++i, at += kHalfBytes) words[F::kWords + i] = read_as<uint16_t>(at + 2 * r);
  for (int64_t column = 0; column < F::kValues; column += 4) {
    const int sub = static_cast<int>(column / F::kSub);
    const std::byte* const planes = unit + codes_at<F>(column / kColumns);
    const int32_t codes = group_codes<F>(static_cast<int>(column % kColumns / 4),
                                         [&](int64_t offset) { return read_as<int32_t>(planes + offset + 4 * r); });
    const float scale = d * static_cast<float>(F::scale_code(words, sub));
    const float min = dmin * static_cast<float>(F::min_code(words, sub));
    for (int i = 0; i < 4; ++i) {
      const int code = byte_of(codes, i);
      const float value = scale * static_cast<float>(F::kLevels ? kIq4Levels[code & 15] : code - F::kZero);
      out[column + i] = !F::kHasMin ? value : F::kAddsMin ? value + min : value - min;
    }
  }
}

}  // namespace
}  // namespace carousel::ops::block_forms

namespace carousel {

namespace forms = ops::block_forms;

void pack_block_panel(std::byte* panel, int64_t begin, int64_t end, const std::byte* rows, int64_t cols, DType dtype) {
  forms::with_form(dtype, [&](auto form) { forms::pack<decltype(form)>(panel, begin, end, rows, cols); });
}

void unpack_block_panel_row(const std::byte* panel, int64_t r, int64_t cols, DType dtype, float* out) {
  forms::with_form(dtype, [&](auto form) {
    using F = decltype(form);
    for (int64_t k = 0; k < cols; k += F::kValues, panel += forms::kUnitBytes<F>) {
      if (cols - k >= F::kValues) {
        forms::unpack_unit<F>(panel, r, out + k);
      } else {
        float last[F::kValues];
        forms::unpack_unit<F>(panel, r, last);
        std::copy_n(last, cols - k, out + k);
      }
    }
  });
}

}  // namespace carousel
