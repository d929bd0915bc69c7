// SPDX-License-Identifier: Apache-2.0
// Sums of outer products of rows, as gradients of matrices are: g[i][j] += sum over n of a[n][i] b[n][j].
// An element is one chain of multiply-adds over the rows in order, which starts from what g holds. So neither tiles and
// threads nor the place where rows are cut into two calls change a bit.
#pragma once

#include "carousel/cpu/matmul.h"

namespace carousel::cpu::CAROUSEL_ISA {

constexpr int64_t kOuterRows = 128;    // rows whose parts of a and b are copied side by side
constexpr int64_t kOuterInputs = 96;   // columns of a that are copied together
constexpr int64_t kOuterColumns = 64;  // columns of b that one call takes
constexpr int64_t kOuterScratch = kOuterRows * (kOuterInputs + kOuterColumns);  // floats of scratch memory
static_assert(kOuterInputs % kTileRows == 0 && kOuterColumns % kLanes == 0);

struct Outer {
  const float* a;  // [rows, inputs]
  int64_t a_stride;
  const float* b;  // [rows, columns]
  int64_t b_stride;
  float* g;  // [inputs, columns], added to
  int64_t g_stride;
  int64_t rows, inputs;
  int64_t columns;  // at most kOuterColumns
};

/// Copies columns first to first + count of `rows` rows to groups [rows, kTileRows] of columns, zeros beyond the last.
/// Rows are the outer loop: a power of two between them would put all of one group's lines into the same sets.
inline void pack_outer_inputs(const Outer& outer, int64_t row, int64_t rows, int64_t first, int64_t count, float* out) {
  const int64_t whole = count / kTileRows, rest = count % kTileRows, group_size = rows * kTileRows;
  const float* from = outer.a + row * outer.a_stride + first;
  for (int64_t n = 0; n < rows; ++n, from += outer.a_stride, out += kTileRows) {
    for (int64_t i = 0; i < whole; ++i) {
      std::memcpy(out + i * group_size, from + i * kTileRows, sizeof(float) * kTileRows);  // a few moves of known size
    }
    for (int64_t k = 0; rest > 0 && k < kTileRows; ++k) {
      out[whole * group_size + k] = k < rest ? from[whole * kTileRows + k] : 0.0f;
    }
  }
}

/// Copies `rows` rows of b to [rows, kOuterColumns], zeros beyond the last column.
inline void pack_outer_columns(const Outer& outer, int64_t row, int64_t rows, float* out) {
  for (int64_t n = 0; n < rows; ++n, out += kOuterColumns) {
    const float* from = outer.b + (row + n) * outer.b_stride;
    int64_t j = 0;
    for (; j + kLanes <= outer.columns; j += kLanes) store(out + j, load(from + j));
    for (; j < outer.columns; ++j) out[j] = from[j];
    for (; j % kLanes != 0; ++j) out[j] = 0;
  }
}

/// Adds `rows` packed rows to the elements of R inputs and V vectors of columns from j on.
template <int R, int V, bool kPartial>
CAROUSEL_INLINE void add_outer_tile(const Outer& outer, float* g, int64_t rows, const float* a, const float* b,
                                    int64_t lanes) {
  Tile<R, V> tile;
  load_tile<kPartial>(tile.acc, g, outer.g_stride, lanes);
  multiply_add<false>(tile, a, 1, kTileRows, b, kOuterColumns, rows, kLanes);
  store_tile<kPartial>(tile.acc, g, outer.g_stride, lanes);
}

/// Computes the sums. `scratch` is kOuterScratch floats.
inline void add_outer(const Outer& outer, float* scratch) {
  float* const a = scratch;
  float* const b = scratch + kOuterRows * kOuterInputs;
  for (int64_t row = 0; row < outer.rows; row += kOuterRows) {
    const int64_t rows = outer.rows - row < kOuterRows ? outer.rows - row : kOuterRows;
    pack_outer_columns(outer, row, rows, b);
    for (int64_t first = 0; first < outer.inputs; first += kOuterInputs) {
      const int64_t count = outer.inputs - first < kOuterInputs ? outer.inputs - first : kOuterInputs;
      pack_outer_inputs(outer, row, rows, first, count, a);
      for_column_tiles<kTileVecs>(outer.columns, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
        for_row_tiles(count, [&]<int R>(int64_t i) {
          float* const g = outer.g + (first + i) * outer.g_stride + j;
          const float* const group = a + i / kTileRows * rows * kTileRows + i % kTileRows;
          add_outer_tile<R, V, kPartial>(outer, g, rows, group, b + j, lanes);
        });
      });
    }
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
