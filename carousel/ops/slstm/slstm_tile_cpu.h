// SPDX-License-Identifier: Apache-2.0
// Tiles of the sLSTM recurrence: rows of y times panels of R, all four gates of 16 elements at once.
// An element's sum is one chain over the head's inputs in any tile, so groups, slices and cuts change no bit.
#pragma once

#include "carousel/cpu/matmul.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/slstm/slstm_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kElements = ops::kSlstmElements;
constexpr int64_t kPanel = ops::kSlstmPanel;
constexpr int64_t kPiece = ops::kSlstmPiece;
constexpr int kGates = 4;

// A tile is up to kRows rows of y by V vectors of P pieces. Its sums and the operands of their multiply-adds fill the
// registers, so that one pass over a panel serves as many rows as possible. With few rows a tile takes more vectors,
// even of two panels, to have enough chains of multiply-adds. Here a piece is the columns of two gates of a panel.
struct TileShape {
  int pieces, vecs;
};
constexpr int kPanelPieces = static_cast<int>(kPanel / kPiece);
#if defined(__AVX512F__)
constexpr int kRows = 12;
constexpr int kPairRows = 2;  // up to so many rows a tile takes two panels
constexpr TileShape tile_shape(int rows) { return {rows <= 6 ? 2 : 1, 2}; }
#else
constexpr int kRows = 3;
constexpr int kPairRows = 0;
constexpr TileShape tile_shape(int rows) {
  if (rows == 1) return kLanes == 4 ? TileShape{1, 8} : TileShape{2, 4};
#if !defined(__AVX2__) && !defined(CAROUSEL_NEON)
  if (rows == 3) return {1, 2};  // without a fused multiply-add a product needs one of the sixteen registers
#endif
  return {1, 4};
}
#endif

struct Sequence {
  int64_t first_row, rows;
  float *y, *c, *n, *m;  // [D] each
};

/// Odd multiples of a cache line, so that the rows a tile reads do not all fall into the same sets of the cache.
constexpr int64_t y_stride(const ops::SlstmDims& dims) { return (ops::slstm_panels(dims) | 1) * kElements; }

/// How the threads divide the work; any division gives the same bits.
struct Division {
  int64_t groups = 1;  // a task is a head's recurrence over sequences g, g + groups, ...
  int64_t slices = 0;  // not 0: the panels of all heads are cut into so many slices, which advance in step
};

/// The arguments, the work divided, and what is laid out in their workspace.
struct Call : ops::SlstmArgs {
  int64_t panels_of_head;
  const Sequence* sequences;  // [batch], longest first, all with rows
  int64_t batch;
  int64_t groups, slices;  // those of the Division
  float* y_rows;           // [2, H, batch, y_stride] outputs of the step before, and of this one
  float* cells;            // [H, panels, batch, 3, kElements] c, n and m between steps
};

/// Sequences first, first + args->groups, ...; in the scratch memory they follow each other from index `place` on.
struct Group {
  const Call* args;
  int64_t first, count, place;

  const Sequence& sequence(int64_t r) const { return args->sequences[first + r * args->groups]; }
  /// y of head h, [dh], after step t; t is -1 before the first. Rows are y_stride apart.
  float* y(int64_t r, int64_t h, int64_t t) const {
    const int64_t row = ((t + 2) % 2 * args->dims.heads + h) * args->batch + place + r;
    return args->y_rows + row * y_stride(args->dims);
  }
  /// c, n and m of the elements of panel q of head h between steps: [3, kElements].
  float* cells(int64_t r, int64_t h, int64_t q) const {
    return args->cells + ((h * args->panels_of_head + q) * args->batch + place + r) * 3 * kElements;
  }
};

Group group_of(const Call& args, int64_t first) {
  const int64_t whole = args.batch / args.groups, rest = args.batch % args.groups;
  return {&args, first, whole + (first < rest ? 1 : 0), first * whole + (first < rest ? first : rest)};
}

/// Prefetches the inputs of one row and the line of its result, far: they lie too far from the last step's for the
/// hardware to foresee, and R would push them out of the first level.
CAROUSEL_INLINE void prefetch_row(const Group& group, int64_t h, int64_t q, int64_t r, int64_t t) {
  const ops::SlstmDims& dims = group.args->dims;
  const int64_t width = dims.heads * dims.dh, row = group.sequence(r).first_row + t, at = h * dims.dh + q * kElements;
  const float* wx = group.args->wx.f32() + row * 4 * width + at;
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) prefetch_far(wx + g * width);
  prefetch_far(group.args->out.f32() + row * width + at);
}

template <int R, int P, int V>
struct Sums {
  Vec at[R][P][V];
};

/// Up to so many rows reading R takes longer than the multiply-adds. The core then issues loads earlier than prefetches
/// could be, the more so the fewer instructions stand between the loads.
constexpr int kReadingRows = kLanes == 16 ? 4 : 2;
/// A tile of three rows by four vectors leaves four of sixteen registers, for its rows' inputs and one vector of R.
constexpr bool holds_rows(int rows) { return rows == 3 && tile_shape(rows).vecs == 4; }

/// sums += inputs 0..count of R rows of y, `stride` apart, times V vectors of P pieces, `piece` floats apart. Meanwhile
/// `ahead`, laid out as w is, is fetched into the first level of cache.
template <int R, int P, int V>
CAROUSEL_INLINE void multiply(Sums<R, P, V>& sums, const float* y, int64_t stride, const float* w, int64_t piece,
                              int64_t count, const float* ahead) {
  const float *y4 = y + 4 * stride, *y8 = y + 8 * stride;  // sixteen registers are too few for twelve pointers to rows
  const int64_t stride3 = 3 * stride;
  const auto step_holding_rows = [&]() __attribute__((always_inline)) {
    Vec y_k[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) y_k[r] = set1(y[r * stride]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vec w_k = load(w + v * kLanes);
      if (v * kLanes % 16 == 0) prefetch_near(ahead + v * kLanes);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) sums.at[r][0][v] = fma(y_k[r], w_k, sums.at[r][0][v]);
    }
    y += 1;
    w += kPiece;
    ahead += kPiece;
  };
  const auto step = [&]() __attribute__((always_inline)) {
    Vec w_k[P][V];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        w_k[p][v] = load(w + p * piece + v * kLanes);
        if (R > kReadingRows && v * kLanes % 16 == 0) prefetch_near(ahead + p * piece + v * kLanes);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const float* base = r < 4 ? y : r < 8 ? y4 : y8;
      const Vec y_k = set1(base[r % 4 == 3 ? stride3 : r % 4 * stride]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums.at[r][p][v] = fma(y_k, w_k[p][v], sums.at[r][p][v]);
      }
    }
    y += 1;
    y4 += 1;
    y8 += 1;
    w += kPiece;
    ahead += kPiece;
  };
  if constexpr (holds_rows(R)) {
    for (int64_t k = 0; k < count; ++k) step_holding_rows();
  } else if (R == 1 || R > kReadingRows) {
    for (int64_t k = 0; k < count; ++k) step();
  } else {
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; ++k) step();
  }
}

/// Parts of the inputs in which a tile goes through its pieces: while it multiplies one part it prefetches the next
/// one, and the inputs and the result of one row.
constexpr int kParts = 8;

/// raw[p * R + i] = the products of rows r + i < r + R of the group with panel q + p of head h, p < N, at step t.
/// `next` is the panel that will be needed after them.
template <int R, int N>
void multiply_tile(const Group& group, const float* panel, const float* next, int64_t h, int64_t q, int64_t r,
                   int64_t t, float (*raw)[kPanel]) {
  constexpr int P = tile_shape(R).pieces * N, V = tile_shape(R).vecs;
  const int64_t dh = group.args->dims.dh, stride = y_stride(group.args->dims);
  const float* y = group.y(r, h, t - 1);
  int64_t asked = 0;
  for (int first = 0; first < N * kPanel; first += P * V * kLanes) {
    const float* w = panel + first / kPiece * dh * kPiece + first % kPiece;
    const int after = first + P * V * kLanes;
    const float* following = after == N * kPanel ? next : panel + after / kPiece * dh * kPiece + after % kPiece;
    Sums<R, P, V> sums = {};
    for (int64_t part = 0; part < kParts; ++part) {
      if (asked < N * R) {
        prefetch_row(group, h, q + asked / R, r + asked % R, t);
        ++asked;
      }
      const int64_t begin = dh * part / kParts, end = dh * (part + 1) / kParts;
      multiply(sums, y + begin, stride, w + begin * kPiece, dh * kPiece, end - begin,
               part + 1 < kParts ? w + end * kPiece : following);
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        float* sum = raw[p / kPanelPieces * R + i] + first + p % kPanelPieces * kPiece;
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(sum + v * kLanes, sums.at[i][p][v]);
      }
    }
  }
}

using TileFunction = void (*)(const Group&, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                              float (*)[kPanel]);
constexpr TileFunction kTiles[] = {
    multiply_tile<1, 1>, multiply_tile<2, 1>,  multiply_tile<3, 1>,
#if defined(__AVX512F__)
    multiply_tile<4, 1>, multiply_tile<5, 1>,  multiply_tile<6, 1>,  multiply_tile<7, 1>,  multiply_tile<8, 1>,
    multiply_tile<9, 1>, multiply_tile<10, 1>, multiply_tile<11, 1>, multiply_tile<12, 1>,
#endif
};
static_assert(sizeof kTiles / sizeof kTiles[0] == kRows);
#if defined(__AVX512F__)
constexpr TileFunction kPairTiles[] = {multiply_tile<1, 2>, multiply_tile<2, 2>};
static_assert(sizeof kPairTiles / sizeof kPairTiles[0] == kPairRows);
#else
constexpr const TileFunction* kPairTiles = nullptr;
#endif

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
