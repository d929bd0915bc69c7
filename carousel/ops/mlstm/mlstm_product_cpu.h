// SPDX-License-Identifier: Apache-2.0
// Products of small matrices in cache for the backward of the mLSTM cell, and their transposition. Matrices are
// row-major; their rows are padded (padded_row) so that whole vectors may be read and written, and so that rows do not
// share cache sets.
#pragma once

#include "carousel/cpu/matmul.h"
#include "carousel/cpu/transpose.h"
#include "carousel/ops/mlstm/mlstm_head_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// Elements from one row of a matrix with `width` columns to the next.
constexpr int64_t padded_row(int64_t width) { return (width + 15) / 16 * 16 + 16; }
constexpr int64_t whole_lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

/// Which part of a product between chunk rows counts: row t reads rows j <= t.
enum class Causal {
  kNone,
  kOut,         // out[i][j] is wanted where j <= i; tiles above the diagonal are left out
  kTerms,       // a[i][k] is zero where k > i
  kTransposed,  // a[i][k] is zero where k < i
};

/// out[i][j] = scale * from[i][j] + the sum of a[i][k] b[k][j] over k in order.
struct Product {
  float* out;
  int64_t out_row;  // elements from a row to the next; also that of `from`
  const float* a;
  int64_t a_step;  // elements from a row of `a` to the next; with kColumns from a column of it to the next
  const float* b;
  int64_t b_row;
  int64_t rows, columns, terms;  // of out, and in a sum; columns are computed in whole vectors
  Causal causal = Causal::kNone;
  const float* from = nullptr;  // may be `out`; null: sums start from zero
  float scale = 1.0f;
};

/// Rows that later work will read and write, prefetched a share per tile: the loops of products leave time for it.
struct Ahead {
  RowsAhead read, written;
  int64_t runs_per_tile;

  void fetch() {
    for (int64_t i = 0; i < runs_per_tile; ++i) read.fetch(), written.fetch();
  }
};

template <bool kColumns, int V>
CAROUSEL_INLINE void product_columns(const Product& p, Ahead* ahead, int64_t j) {
  const int64_t a_row = kColumns ? 1 : p.a_step, a_k = kColumns ? p.a_step : 1;
  for_row_tiles<kRows>(p.rows, [&]<int R>(int64_t i) CAROUSEL_INLINE_LAMBDA {
    if (p.causal == Causal::kOut && j >= i + R) return;
    ahead->fetch();
    const int64_t first = p.causal == Causal::kTransposed ? i : 0;
    const int64_t end = p.causal == Causal::kTerms && i + R < p.terms ? i + R : p.terms;
    Tile<R, V> tile;
    if (p.from != nullptr) {
      load_tile(tile.acc, p.from + i * p.out_row + j, p.out_row);
      scale_tile(tile.acc, [&](int) { return p.scale; });
    } else {
      clear_tile(tile.acc);
    }
    multiply_add<false>(tile, p.a + i * a_row + first * a_k, a_row, a_k, p.b + first * p.b_row + j, p.b_row,
                        end - first, kLanes);
    store_tile(tile.acc, p.out + i * p.out_row + j, p.out_row);
  });
}

/// kColumns: `a` lies in memory by columns.
template <bool kColumns>
__attribute__((noinline)) void multiply(const Product& p, Ahead* ahead) {
  const int64_t columns = whole_lanes(p.columns);
  int64_t j = 0;
  for (; j + kTileVecs * kLanes <= columns; j += kTileVecs * kLanes) product_columns<kColumns, kTileVecs>(p, ahead, j);
  for (; j < columns; j += kLanes) product_columns<kColumns, 1>(p, ahead, j);
}

/// Copies `factor` times a row of `width` floats to a padded row, with zeros beyond it up to whole vectors.
inline void copy_to_padded(const float* row, Vec factor, int64_t width, float* padded) {
  for (int64_t j = 0; j < width; j += kLanes) store(padded + j, factor * load_at(row + j, width - j));
}
inline void copy_from_padded(const float* padded, Vec factor, int64_t width, float* row) {
  for (int64_t j = 0; j < width; j += kLanes) {
    const Vec value = factor * load(padded + j);
    width - j >= kLanes ? store(row + j, value) : store_partial(row + j, value, width - j);
  }
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
