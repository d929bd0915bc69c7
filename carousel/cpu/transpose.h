// SPDX-License-Identifier: Apache-2.0
// Transposes square blocks of floats that have as many rows as a vector has lanes, and matrices made of them.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// Exchanges rows[i][j] and rows[j][i].
#if defined(__AVX512F__)
inline void transpose(Vec (&rows)[kLanes]) {
  // Four stages: each exchanges, between rows i and i + s, the lanes whose number has bit s.
  const __m512i low = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
  for (int s = 1; s < 16; s *= 2) {
    const __m512i bit = _mm512_set1_epi32(s);
    const __mmask16 has = _mm512_test_epi32_mask(low, bit);
    // Lane j of the first result: j without bit s of the first row, or of the second one (bit 4) if j has it.
    const __m512i from = _mm512_andnot_si512(bit, low);
    const __m512i first = _mm512_mask_or_epi32(from, has, from, _mm512_set1_epi32(16));
    const __m512i second = _mm512_or_si512(first, bit);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if ((i & s) != 0) continue;
      const Vec a = rows[i], b = rows[i + s];
      rows[i] = _mm512_permutex2var_ps(a, first, b);
      rows[i + s] = _mm512_permutex2var_ps(a, second, b);
    }
  }
}
#else
inline void transpose(Vec (&rows)[kLanes]) {
  float in[kLanes][kLanes], out[kLanes][kLanes];
  for (int64_t i = 0; i < kLanes; ++i) store(in[i], rows[i]);
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t j = 0; j < kLanes; ++j) out[j][i] = in[i][j];
  }
  for (int64_t i = 0; i < kLanes; ++i) rows[i] = load(out[i]);
}
#endif

/// to[c][r] = from[r][c]. With kPadded rows of `to` are written in whole vectors, with zeros beyond `rows`.
template <bool kPadded>
void transpose_matrix(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t lanes = columns - c < kLanes ? columns - c : kLanes;
    for (int64_t r = 0; r < rows; r += kLanes) {
      Vec block[kLanes];  // rows, then, transposed, columns
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        const float* const row = from + (r + i) * from_row + c;
        block[i] = r + i < rows ? (lanes == kLanes ? load(row) : load_partial(row, lanes)) : Vec{};
      }
      transpose(block);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        if (i >= lanes) continue;
        float* const out = to + (c + i) * to_row + r;
        kPadded || rows - r >= kLanes ? store(out, block[i]) : store_partial(out, block[i], rows - r);
      }
    }
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
