// SPDX-License-Identifier: Apache-2.0
// Transposition of small cells, 16 bytes of four rows at a time: what packing rows into panels is made of. Plain vector
// code that every 64-bit machine runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace carousel {

typedef uint32_t CellVec __attribute__((vector_size(16)));
typedef uint16_t HalfCellVec __attribute__((vector_size(16)));

/// 4 x 4 cells of 32 bits, each xor `flip`.
///   in: four rows, `row_bytes` apart   out: four columns of four, `column_bytes` apart
inline void transpose_cells(const std::byte* in, size_t row_bytes, std::byte* out, size_t column_bytes,
                            uint32_t flip = 0) {
  CellVec row[4];
  for (size_t r = 0; r < 4; ++r) {
    std::memcpy(&row[r], in + r * row_bytes, sizeof row[r]);
    row[r] ^= flip;
  }
  const CellVec low_01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const CellVec high_01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const CellVec low_23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const CellVec high_23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const CellVec column[4] = {
      __builtin_shufflevector(low_01, low_23, 0, 1, 4, 5), __builtin_shufflevector(low_01, low_23, 2, 3, 6, 7),
      __builtin_shufflevector(high_01, high_23, 0, 1, 4, 5), __builtin_shufflevector(high_01, high_23, 2, 3, 6, 7)};
  for (size_t c = 0; c < 4; ++c) std::memcpy(out + c * column_bytes, &column[c], sizeof column[c]);
}

/// 4 rows of 8 cells of 16 bits.
///   in: four rows, `row_bytes` apart   out: eight columns of four, `column_bytes` apart
inline void transpose_half_cells(const std::byte* in, size_t row_bytes, std::byte* out, size_t column_bytes) {
  HalfCellVec row[4];
  for (size_t r = 0; r < 4; ++r) std::memcpy(&row[r], in + r * row_bytes, sizeof row[r]);
  const HalfCellVec pairs[4] = {__builtin_shufflevector(row[0], row[1], 0, 8, 1, 9, 2, 10, 3, 11),
                                __builtin_shufflevector(row[2], row[3], 0, 8, 1, 9, 2, 10, 3, 11),
                                __builtin_shufflevector(row[0], row[1], 4, 12, 5, 13, 6, 14, 7, 15),
                                __builtin_shufflevector(row[2], row[3], 4, 12, 5, 13, 6, 14, 7, 15)};
  for (size_t half = 0; half < 2; ++half) {
    CellVec a, b;
    std::memcpy(&a, &pairs[2 * half], sizeof a);
    std::memcpy(&b, &pairs[2 * half + 1], sizeof b);
    const CellVec columns[2] = {__builtin_shufflevector(a, b, 0, 4, 1, 5), __builtin_shufflevector(a, b, 2, 6, 3, 7)};
    for (size_t c = 0; c < 4; ++c) {
      std::memcpy(out + (4 * half + c) * column_bytes, reinterpret_cast<const char*>(&columns[c / 2]) + c % 2 * 8, 8);
    }
  }
}

}  // namespace carousel
