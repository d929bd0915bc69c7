// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence on CPUs. All sequences of a group advance in step: a tile of rows is multiplied with a panel of
// the head's matrix, which stays in cache, and the sums, all four gates of 16 elements, advance those elements at once.
// From step to step y, c, n and m go through a small buffer: those of the caller lie far apart, often in the same
// cache sets.
// An element's sum is one chain over the head's inputs in any tile, so groups, slices and cuts change no bit.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/ops/slstm/slstm.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kElements = ops::kSlstmElements;
constexpr int64_t kPanel = ops::kSlstmPanel;
constexpr int64_t kPiece = ops::kSlstmPiece;
constexpr int kGates = 4;

// A tile is up to kRows rows of y by V vectors of P pieces: its sums fill the registers, but for the operands of their
// multiply-adds, so that one pass over a panel does for as many rows as possible. Of few rows it takes more vectors, of
// two panels even, to have enough chains of multiply-adds.
struct TileShape {
  int pieces, vecs;
};
constexpr int kPanelPieces = static_cast<int>(kPanel / kPiece);
#if defined(__AVX512F__)
constexpr int kRows = static_cast<int>(ops::kSlstmTileRows);
constexpr int kPairRows = 2;  // up to which a tile takes two panels
constexpr TileShape tile_shape(int rows) { return {rows <= 6 ? 2 : 1, 2}; }
#else
constexpr int kRows = 3;
constexpr int kPairRows = 0;
constexpr TileShape tile_shape(int rows) {
  if (rows == 1) return kLanes == 4 ? TileShape{1, 8} : TileShape{2, 4};
#if !defined(__AVX2__) && !defined(CAROUSEL_NEON)
  if (rows == 3) return {1, 2};  // of sixteen registers a product takes one too, where it is not added at once
#endif
  return {1, 4};
}
#endif

/// Sequences first, first + args->groups, ...; their places in the scratch memory follow each other from `place` on.
struct Group {
  const ops::SlstmArgs* args;
  int64_t first, count, place;

  const ops::SlstmSequence& sequence(int64_t r) const { return args->sequences[first + r * args->groups]; }
  /// y of head h, [dh], after step t; t is -1 before the first. Rows are ops::slstm_y_stride apart.
  float* y(int64_t r, int64_t h, int64_t t) const {
    const int64_t row = ((t + 2) % 2 * args->dims.heads + h) * args->batch + place + r;
    return args->y + row * ops::slstm_y_stride(args->dims);
  }
  /// c, n and m of the elements of panel q of head h between steps: [3, kElements].
  float* cells(int64_t r, int64_t h, int64_t q) const {
    return args->cells + ((h * args->panels + q) * args->batch + place + r) * 3 * kElements;
  }
};

Group group_of(const ops::SlstmArgs& args, int64_t first) {
  const int64_t whole = args.batch / args.groups, rest = args.batch % args.groups;
  return {&args, first, whole + (first < rest ? 1 : 0), first * whole + (first < rest ? first : rest)};
}

struct Cell {
  Vec y, c, n, m;
};

CAROUSEL_INLINE Cell advance(Cell old, Vec raw_i, Vec raw_f, Vec raw_z, Vec raw_o, Vec f_gate_max) {
  const Vec one = set1(1.0f);
  const Vec capped = min(f_gate_max, raw_f);
  const Vec log_f = old.m + (min(capped, Vec{}) - log1p_unit(exp_decay(negative_abs(capped))));
  // One of the two gates is e^0: the larger one, and i where n is 0, which m' then follows.
  const Vec ahead = raw_i - log_f;
  const Vec e = exp_decay(negative_abs(ahead));
  const Vec f = ahead >= Vec{} ? e : one;
  Vec i = ahead >= Vec{} ? one : e;
  i = old.n == Vec{} ? one : i;
  Cell next;
  next.m = old.n == Vec{} ? raw_i : max(raw_i, log_f);
  next.c = fma(f, old.c, i * tanh(raw_z));
  next.n = fma(f, old.n, i);
  // sigmoid(o) c / n, where sigmoid(o) = w / (1 + e^-|o|) with w = 1 or e^-|o|: one division.
  const Vec o = exp_decay(negative_abs(raw_o));
  next.y = (raw_o >= Vec{} ? one : o) * next.c / fma(o, next.n, next.n);
  return next;
}

/// Asks for the inputs of one row and the place of its result: too far from the last step's for the hardware to
/// foresee. Into the second level: R would push them out of the first.
CAROUSEL_INLINE void prefetch_row(const Group& group, int64_t h, int64_t q, int64_t r, int64_t t) {
  const ops::SlstmDims& dims = group.args->dims;
  const int64_t width = dims.heads * dims.dh, row = group.sequence(r).first_row + t, at = h * dims.dh + q * kElements;
  const float* wx = group.args->wx + row * 4 * width + at;
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) __builtin_prefetch(wx + g * width, 0, 2);
  __builtin_prefetch(group.args->out + row * width + at, 0, 2);
}

template <int R, int P, int V>
struct Sums {
  Vec at[R][P][V];
};

/// Up to so many rows reading R takes longer than the multiply-adds. Loads then run ahead farther than prefetches could
/// ask for, the more so the fewer instructions are between them.
constexpr int kReadingRows = kLanes == 16 ? 4 : 2;
/// Of sixteen registers a tile of three rows by four vectors leaves four, for its rows' inputs and one vector of R.
constexpr bool holds_rows(int rows) { return rows == 3 && tile_shape(rows).vecs == 4; }

/// sums += inputs 0..count of R rows of y, `stride` apart, times V vectors of P pieces, `piece` floats apart. Meanwhile
/// `ahead`, laid out as w is, is fetched into the first level of cache.
template <int R, int P, int V>
CAROUSEL_INLINE void multiply(Sums<R, P, V>& sums, const float* y, int64_t stride, const float* w, int64_t piece,
                              int64_t count, const float* ahead) {
  const float *y4 = y + 4 * stride, *y8 = y + 8 * stride;  // of sixteen registers twelve cannot point to rows
  const int64_t stride3 = 3 * stride;
  const auto step_holding_rows = [&]() __attribute__((always_inline)) {
    Vec y_k[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) y_k[r] = set1(y[r * stride]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vec w_k = load(w + v * kLanes);
      if (v * kLanes % 16 == 0) __builtin_prefetch(ahead + v * kLanes, 0, 3);
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
        if (R > kReadingRows && v * kLanes % 16 == 0) __builtin_prefetch(ahead + p * piece + v * kLanes, 0, 3);
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

/// Parts in which a tile goes through a piece: while it multiplies with one it fetches the next, and what a row needs.
constexpr int kParts = 8;

/// raw[p * R + i] = the products of rows r + i < r + R of the group with panel q + p of head h, p < N, at step t.
/// `next` is the panel that will be needed after them.
template <int R, int N>
void multiply_tile(const Group& group, const float* panel, const float* next, int64_t h, int64_t q, int64_t r,
                   int64_t t, float (*raw)[kPanel]) {
  constexpr int P = tile_shape(R).pieces * N, V = tile_shape(R).vecs;
  const int64_t dh = group.args->dims.dh, stride = ops::slstm_y_stride(group.args->dims);
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

/// c, n and m of panel q of head h, from where the caller keeps them or back.
enum class Copy { kIn, kOut };
template <Copy kWay>
void copy_cells(const Group& group, int64_t h, int64_t q, int64_t r) {
  const int64_t dh = group.args->dims.dh, j = q * kElements, lanes = dh - j < kElements ? dh - j : kElements;
  const ops::SlstmSequence& seq = group.sequence(r);
  float* cells = group.cells(r, h, q);
  float* kept[] = {seq.c + h * dh + j, seq.n + h * dh + j, seq.m + h * dh + j};
  const auto bytes = sizeof(float) * static_cast<size_t>(lanes);
  for (int64_t i = 0; i < 3; ++i) {
    if (kWay == Copy::kIn) {
      std::memset(cells + i * kElements, 0, sizeof(float) * kElements);
      std::memcpy(cells + i * kElements, kept[i], bytes);
    } else {
      std::memcpy(kept[i], cells + i * kElements, bytes);
    }
  }
}

/// Where the elements of a panel and a row find their inputs, one gate's a row of D from the next's, and their cells,
/// and leave their outputs: for the next step, and for the caller, who has places for `lanes` of them alone.
struct Place {
  const float* wx;
  float *cells, *y, *out;
  int64_t lanes;
};
/// The places of panel q of head h and rows r..r+count at step t. Their inputs are fetched into the first level of
/// cache.
void find_places(const Group& group, int64_t h, int64_t q, int64_t r, int64_t count, int64_t t, Place* places) {
  const ops::SlstmArgs& args = *group.args;
  const int64_t dh = args.dims.dh, width = args.dims.heads * dh, stride = ops::slstm_y_stride(args.dims);
  const int64_t j = q * kElements, lanes = dh - j < kElements ? dh - j : kElements;
  const ops::SlstmSequence* seq = &group.sequence(r);
  float *cells = group.cells(r, h, q), *y = group.y(r, h, t) + j;
  for (int64_t i = 0; i < count; ++i, cells += 3 * kElements, y += stride) {
    const int64_t row = seq[i * args.groups].first_row + t;
    const float* wx = args.wx + row * 4 * width + h * dh + j;
    places[i] = {wx, cells, y, args.out + row * width + h * dh + j, lanes};
#pragma GCC unroll 4
    for (int64_t g = 0; g < kGates; ++g) __builtin_prefetch(wx + g * width, 0, 3);
  }
}

/// The elements of `count` places; raw holds their products. kPartial: some have fewer than kElements lanes.
template <bool kPartial>
void advance_places(const ops::SlstmArgs& args, const Place* places, int64_t count, const float (*raw)[kPanel]) {
  const int64_t width = args.dims.heads * args.dims.dh;
  const Vec f_gate_max = set1(args.dims.f_gate_max);
  const auto lanes_from = [](const Place& place, int64_t v) { return place.lanes < v ? 0 : place.lanes - v; };
  for (int64_t i = 0; i < count; ++i) {
    const Place& place = places[i];
    for (int64_t v = 0; v < kElements; v += kLanes) {
      const bool partial = kPartial && lanes_from(place, v) < kLanes;
      const auto gate = [&](int64_t g) __attribute__((always_inline)) {
        const float* p = place.wx + g * width + v;
        return (partial ? load_partial(p, lanes_from(place, v)) : load(p)) + load(raw[i] + g * kElements + v);
      };
      float *c = place.cells + v, *n = c + kElements, *m = n + kElements;
      const Cell next = advance({Vec{}, load(c), load(n), load(m)}, gate(0), gate(1), gate(2), gate(3), f_gate_max);
      store(c, next.c);
      store(n, next.n);
      store(m, next.m);
      store(place.y + v, next.y);
    }
  }
  // Not before all inputs are loaded: they often lie a multiple of 4 KiB from the results, and a load waits for a store
  // that it may depend on by the low bits of its address.
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t v = 0; v < kElements; v += kLanes) {
      const Vec y = load(places[i].y + v);
      if (kPartial && lanes_from(places[i], v) < kLanes)
        store_partial(places[i].out + v, y, lanes_from(places[i], v));
      else
        store(places[i].out + v, y);
    }
  }
}

/// Rows times panels whose products are there before their elements advance: where rows are few, elements of several
/// panels keep each other's functions busy, and reading R goes on meanwhile.
constexpr int64_t kBulk = 16;
static_assert(kBulk >= kRows);

/// All of the group's running sequences, panels [begin, end) of head h, at step t. Odd steps go backwards: what the
/// second level of cache still holds of the step before is then read from there, and not pushed out first.
void advance_head(const Group& group, int64_t h, int64_t begin, int64_t end, int64_t t) {
  const ops::SlstmArgs& args = *group.args;
  int64_t rows = group.count;
  while (rows > 0 && group.sequence(rows - 1).rows <= t) --rows;  // longest first
  if (rows == 0 || begin == end) return;
  const int64_t tiles = (rows + kRows - 1) / kRows;
  // Panels go by units of one or, of few rows, two.
  const int64_t unit = rows <= kPairRows ? 2 : 1, units = (end - begin + unit - 1) / unit;
  const int64_t bulk = tiles > 1 ? 1 : kBulk / (rows * unit);  // units
  const auto unit_at = [&](int64_t n) { return begin + (t % 2 == 0 ? n : units - 1 - n) * unit; };
  const auto panel = [&](int64_t q) { return args.packed + (h * args.panels + q) * args.dims.dh * kPanel; };
  const auto panels_of = [&](int64_t q) { return end - q < unit ? end - q : unit; };
  alignas(64) float raw[kBulk][kPanel];
  for (int64_t first = 0; first < units; first += bulk) {
    const int64_t last = first + bulk < units ? first + bulk : units;
    for (int64_t i = 0, r = 0; i < tiles; ++i) {
      const int64_t count = rows / tiles + (i < rows % tiles ? 1 : 0);
      float(*sums)[kPanel] = raw;
      for (int64_t n = first; n < last; ++n) {
        const int64_t q = unit_at(n), following = i + 1 < tiles ? q : unit_at(n + 1 < units ? n + 1 : n);
        const TileFunction tile = (panels_of(q) == 2 ? kPairTiles : kTiles)[count - 1];
        tile(group, panel(q), panel(following), h, q, r, t, sums);
        sums += panels_of(q) * count;
      }
      const auto each_panel = [&](auto&& act) {
        for (int64_t n = first; n < last; ++n) {
          for (int64_t q = unit_at(n), past = q + panels_of(q); q < past; ++q) act(q);
        }
      };
      Place places[kBulk];
      Place* next = places;
      each_panel([&](int64_t q) {
        for (int64_t row = r; t == 0 && row < r + count; ++row) copy_cells<Copy::kIn>(group, h, q, row);
        find_places(group, h, q, r, count, t, next);
        next += count;
      });
      const bool partial = args.dims.dh % kElements != 0;
      (partial ? advance_places<true> : advance_places<false>)(args, places, next - places, raw);
      each_panel([&](int64_t q) {  // longest first
        for (int64_t row = r + count - 1; row >= r && group.sequence(row).rows == t + 1; --row)
          copy_cells<Copy::kOut>(group, h, q, row);
      });
      r += count;
    }
  }
}

/// Panels [begin, end) of all heads' in order.
void advance_panels(const Group& group, int64_t begin, int64_t end, int64_t t) {
  const int64_t panels = group.args->panels, first = begin / panels, heads = (end + panels - 1) / panels - first;
  for (int64_t i = 0; i < heads; ++i) {
    const int64_t h = first + (t % 2 == 0 ? i : heads - 1 - i), from = begin - h * panels, to = end - h * panels;
    advance_head(group, h, from < 0 ? 0 : from, to < panels ? to : panels, t);
  }
}

/// Where the rows of step 0 look for the y of the step before.
void copy_y(const Group& group, int64_t h) {
  const int64_t dh = group.args->dims.dh;
  for (int64_t r = 0; r < group.count; ++r)
    std::memcpy(group.y(r, h, -1), group.sequence(r).y + h * dh, sizeof(float) * static_cast<size_t>(dh));
}

}  // namespace

void slstm(const Stream& stream, const ops::SlstmArgs& args) {
  const int64_t heads = args.dims.heads, dh = args.dims.dh, panels = heads * args.panels;
  int64_t rows = 0;
  for (int64_t s = 0; s < args.batch; ++s) rows += args.sequences[s].rows;
  if (args.slices > 0) {
    const Group group = group_of(args, 0);
    for (int64_t h = 0; h < heads; ++h) copy_y(group, h);
    parallel_steps(*stream.pool, args.slices, args.sequences[0].rows, [&](int64_t slice, int64_t t) {
      advance_panels(group, panels * slice / args.slices, panels * (slice + 1) / args.slices, t);
    });
  } else {
    parallel_workers(stream, heads * args.groups, rows * heads * dh * (8 * dh + 200), [&](int64_t, int64_t item) {
      const int64_t h = item % heads, first = item / heads;
      const Group group = group_of(args, first);
      copy_y(group, h);
      for (int64_t t = 0; t < group.sequence(0).rows; ++t) advance_head(group, h, 0, args.panels, t);
    });
  }
  const auto bytes = sizeof(float) * static_cast<size_t>(heads * dh);
  for (int64_t s = 0; s < args.batch; ++s) {
    const ops::SlstmSequence& seq = args.sequences[s];
    std::memcpy(seq.y, args.out + (seq.first_row + seq.rows - 1) * heads * dh, bytes);
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
