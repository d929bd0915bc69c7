// SPDX-License-Identifier: Apache-2.0
// Register tiles for products of in-cache f32 matrices: out[i][j] += sum_k a[i][k] b[k][j], lanes along j.
// An output element is one chain of multiply-adds over k in order, whichever tile it falls in.
#pragma once

#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {

// Accumulators fill the registers (32 with AVX-512, else 16), which leaves room for one row of b and a broadcast.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
constexpr int kTileVecs = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;
#else
constexpr int kTileRows = 4;
constexpr int kTileVecs = 2;
#endif

/// R rows of V vectors. With kPartial (V = 1 only) the matrix ends after the first `lanes` lanes.
template <int R, int V>
struct Tile {
  Vec acc[R][V];
};

template <bool kPartial>
CAROUSEL_INLINE Vec load_lanes(const float* p, int64_t lanes) {
  return kPartial ? load_partial(p, lanes) : load(p);
}
template <bool kPartial>
CAROUSEL_INLINE void store_lanes(float* p, Vec v, int64_t lanes) {
  if (kPartial) {
    store_partial(p, v, lanes);
  } else {
    store(p, v);
  }
}

// The sums of a tile stay in registers from its first load to its last store only where all loops over them are
// unrolled at once: so tiles are cleared, loaded and stored by these functions.

template <int R, int V>
CAROUSEL_INLINE void clear_tile(Vec (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = Vec{};
  }
}

/// Rows of a tile are `stride` floats apart at p.
template <bool kPartial = false, int R, int V>
CAROUSEL_INLINE void load_tile(Vec (&acc)[R][V], const float* p, int64_t stride, int64_t lanes = kLanes) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = load_lanes<kPartial>(p + r * stride + v * kLanes, lanes);
  }
}

template <bool kPartial = false, int R, int V>
CAROUSEL_INLINE void store_tile(const Vec (&acc)[R][V], float* p, int64_t stride, int64_t lanes = kLanes) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store_lanes<kPartial>(p + r * stride + v * kLanes, acc[r][v], lanes);
  }
}

/// acc[r] *= factor(r).
template <int R, int V, class Factor>
CAROUSEL_INLINE void scale_tile(Vec (&acc)[R][V], const Factor& factor) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vec scale = set1(factor(r));
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = acc[r][v] * scale;
  }
}

/// tile += a b over `count` terms: a(i, k) = a[i * a_row + k * a_k], b(k, j) = b[k * b_row + j].
/// With kAhead it also prefetches ahead(k, j), laid out as b is: the matrix that the next product will stream.
template <bool kPartial, bool kAhead = false, int R, int V>
CAROUSEL_INLINE void multiply_add(Tile<R, V>& tile, const float* a, int64_t a_row, int64_t a_k, const float* b,
                                  int64_t b_row, int64_t count, int64_t lanes, const float* ahead = nullptr) {
  for (int64_t k = 0; k < count; ++k) {
    if (kAhead) {
      for (int64_t v = 0; v < V * kLanes; v += kLineFloats) prefetch_far(ahead + k * b_row + v);
    }
    Vec b_k[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b_k[v] = load_lanes<kPartial>(b + k * b_row + v * kLanes, lanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vec a_rk = set1(a[r * a_row + k * a_k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) tile.acc[r][v] = fma(a_rk, b_k[v], tile.acc[r][v]);
    }
  }
}

/// Calls body<R>(i) over tiles of rows of [0, rows), at most kMax high.
template <int kMax = kTileRows, class Body>
CAROUSEL_INLINE void for_row_tiles(int64_t rows, Body&& body) {
  int64_t i = 0;
  for (; i + kMax <= rows; i += kMax) body.template operator()<kMax>(i);
  for (; i + 4 <= rows; i += 4) body.template operator()<4>(i);
  for (; i + 2 <= rows; i += 2) body.template operator()<2>(i);
  if (i < rows) body.template operator()<1>(i);
}

/// Calls body<V, kPartial>(j, lanes) over tiles of columns of [0, columns), at most kMax vectors wide.
template <int kMax, class Body>
CAROUSEL_INLINE void for_column_tiles(int64_t columns, Body&& body) {
  int64_t j = 0;
  for (; j + kMax * kLanes <= columns; j += kMax * kLanes) body.template operator()<kMax, false>(j, kLanes);
  for (; j + kLanes <= columns; j += kLanes) body.template operator()<1, false>(j, kLanes);
  if (j < columns) body.template operator()<1, true>(j, columns - j);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
