// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence on CPUs. All sequences of a group advance in step: a tile of rows is multiplied with a panel of
// the head's matrix, which stays in cache, and the sums, all four gates of 16 elements, advance those elements at once.
// From step to step y, c, n and m go through a small buffer: those of the caller lie far apart, often in the same
// cache sets.
// An element's sum is one chain over the head's inputs in any tile, so groups, slices and cuts change no bit.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/ops/slstm.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kElements = ops::kSlstmElements;
constexpr int64_t kPanel = ops::kSlstmPanel;
constexpr int kGates = 4;

// Rows of a tile: its sums fill the registers, but for a broadcast per row and a vector of R.
#if defined(__AVX512F__)
constexpr int kRows = 6;
#else
constexpr int kRows = 3;
#endif
constexpr int kPanelVecs = static_cast<int>(kElements / kLanes);  // of one gate
/// Vectors of elements across a tile: one row alone needs more sums than its gates to keep the multiply-adds busy.
constexpr int tile_vecs(int rows) { return rows == 1 && kPanelVecs > 1 ? 2 : 1; }
/// Inputs whose part of a panel, 24 KiB, stays in the first level of cache while a tile takes its vectors in turn.
constexpr int64_t kBlock = 96;

/// Sequences first, first + args->groups, ...; their places in the scratch memory follow each other from `place` on.
struct Group {
  const ops::SlstmArgs* args;
  int64_t first, count, place;

  const ops::SlstmSequence& sequence(int64_t r) const { return args->sequences[first + r * args->groups]; }
  /// y of head h, [dh], after step t; t is -1 before the first.
  float* y(int64_t r, int64_t h, int64_t t) const {
    if (t < 0) return sequence(r).y + h * args->dims.dh;
    const int64_t row = (t % 2 * args->dims.heads + h) * args->batch + place + r;
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

/// e^x for x <= 0 to within 1.5 ulp; 0 from -87 down. NaN stays NaN.
CAROUSEL_INLINE Vec exp_decay(Vec x) {
  const Vec clamped = max(set1(-88.0f), x);
  const Vec shifted = fma(clamped, set1(1.44269504088896341f), set1(12582912.0f));
  const Vec k = shifted - set1(12582912.0f);
  Vec r = fma(k, set1(-0.693359375f), clamped);
  r = fma(k, set1(2.12194440e-4f), r);
  Vec p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4B400000 + 127) << 23;  // 2^k; 0 for k = -127
  Vec scale;
  std::memcpy(&scale, &bits, sizeof bits);
  return p * scale;
}

/// log(1 + y) for y in [0, 1]: with s = y / (2 + y) <= 1/3 it is 2 artanh(s), a series whose terms shrink by 9.
CAROUSEL_INLINE Vec log1p_small(Vec y) {
  const Vec s = y / (y + set1(2.0f));
  const Vec s2 = s * s;
  Vec p = set1(1.0f / 15);
  p = fma(p, s2, set1(1.0f / 13));
  p = fma(p, s2, set1(1.0f / 11));
  p = fma(p, s2, set1(1.0f / 9));
  p = fma(p, s2, set1(1.0f / 7));
  p = fma(p, s2, set1(1.0f / 5));
  p = fma(p, s2, set1(1.0f / 3));
  const Vec half = fma(p * s2, s, s);
  return half + half;
}

struct Cell {
  Vec y, c, n, m;
};

CAROUSEL_INLINE Cell advance(Cell old, Vec raw_i, Vec raw_f, Vec raw_z, Vec raw_o, Vec f_gate_max) {
  const Vec one = set1(1.0f);
  const Vec capped = min(f_gate_max, raw_f);
  const Vec log_f = old.m + (min(capped, Vec{}) - log1p_small(exp_decay(-max(capped, -capped))));
  // One of the two gates is e^0: the larger one, and i where n is 0, which m' then follows.
  const Vec ahead = raw_i - log_f;
  const Vec e = exp_decay(-max(ahead, -ahead));
  const Vec f = ahead >= Vec{} ? e : one;
  Vec i = ahead >= Vec{} ? one : e;
  i = old.n == Vec{} ? one : i;
  Cell next;
  next.m = old.n == Vec{} ? raw_i : max(raw_i, log_f);
  next.c = fma(f, old.c, i * tanh(raw_z));
  next.n = fma(f, old.n, i);
  // sigmoid(o) c / n, where sigmoid(o) = w / (1 + e^-|o|) with w = 1 or e^-|o|: one division.
  const Vec o = exp_decay(-max(raw_o, -raw_o));
  next.y = (raw_o >= Vec{} ? one : o) * next.c / fma(o, next.n, next.n);
  return next;
}

/// Asks for the inputs of one row: too far from the last step's for the hardware to foresee. Into the second level:
/// rows and gates often lie a multiple of 4 KiB apart, and would push each other and y out of one set of the first.
CAROUSEL_INLINE void prefetch_row(const Group& group, int64_t r, int64_t t, int64_t at) {
  const int64_t width = group.args->dims.heads * group.args->dims.dh;
  const float* wx = group.args->wx + (group.sequence(r).first_row + t) * 4 * width + at;
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) __builtin_prefetch(wx + g * width, 0, 2);
}

/// Elements j.. of head h of one row; raw [4][kLanes] are its products with R.
template <bool kPartial>
CAROUSEL_INLINE void advance_lanes(const Group& group, const float* raw, int64_t r, int64_t t, int64_t h, int64_t j,
                                   int64_t lanes) {
  const ops::SlstmArgs& args = *group.args;
  const ops::SlstmSequence& seq = group.sequence(r);
  const int64_t width = args.dims.heads * args.dims.dh, at = h * args.dims.dh + j, row = seq.first_row + t;
  const float* wx = args.wx + row * 4 * width + at;  // gates D apart
  Vec sum[kGates];
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) sum[g] = load_lanes<kPartial>(wx + g * width, lanes) + load(raw + g * kLanes);
  float* cells = group.cells(r, h, j / kElements) + j % kElements;
  float *c = cells, *n = cells + kElements, *m = cells + 2 * kElements;
  const bool starts = t == 0, ends = t + 1 == seq.rows;
  const Cell old = {Vec{}, load_lanes<kPartial>(starts ? seq.c + at : c, lanes),
                    load_lanes<kPartial>(starts ? seq.n + at : n, lanes),
                    load_lanes<kPartial>(starts ? seq.m + at : m, lanes)};
  const Cell next = advance(old, sum[0], sum[1], sum[2], sum[3], set1(args.dims.f_gate_max));
  store_lanes<kPartial>(ends ? seq.c + at : c, next.c, lanes);
  store_lanes<kPartial>(ends ? seq.n + at : n, next.n, lanes);
  store_lanes<kPartial>(ends ? seq.m + at : m, next.m, lanes);
  store_lanes<kPartial>(group.y(r, h, t) + j, next.y, lanes);
  store_lanes<kPartial>(args.out + row * width + at, next.y, lanes);
}

/// raw[i][u][g] (+)= the products of inputs k.. of R rows with U vectors of each gate, from column w on.
template <int R, int U>
CAROUSEL_INLINE void multiply(const float* const* y, const float* w, int64_t first, int64_t count,
                              float (&raw)[R][kPanelVecs][kGates][kLanes], int first_vec) {
  Vec acc[R][kGates][U] = {};
  if (U < kPanelVecs && first > 0) {
#pragma GCC unroll 6
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int g = 0; g < kGates; ++g) {
#pragma GCC unroll 2
        for (int u = 0; u < U; ++u) acc[i][g][u] = load(raw[i][first_vec + u][g]);
      }
    }
  }
  for (int64_t k = first; k < first + count; ++k, w += kPanel) {
    Vec y_k[R];
#pragma GCC unroll 6
    for (int i = 0; i < R; ++i) y_k[i] = set1(y[i][k]);
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) {
#pragma GCC unroll 2
      for (int u = 0; u < U; ++u) {
        const Vec w_gu = load(w + g * kElements + u * kLanes);
#pragma GCC unroll 6
        for (int i = 0; i < R; ++i) acc[i][g][u] = fma(y_k[i], w_gu, acc[i][g][u]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) {
#pragma GCC unroll 2
      for (int u = 0; u < U; ++u) store(raw[i][first_vec + u][g], acc[i][g][u]);
    }
  }
}

/// Rows r..r+R of the group, panel q of head h, at step t.
template <int R>
void advance_tile(const Group& group, const float* panel, int64_t h, int64_t q, int64_t r, int64_t t) {
  constexpr int kVecs = tile_vecs(R);
  const int64_t dh = group.args->dims.dh;
  const float* y[R];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    y[i] = group.y(r + i, h, t - 1);
    prefetch_row(group, r + i, t, h * dh + q * kElements);
  }
  float raw[R][kPanelVecs][kGates][kLanes];
  const int64_t block = kVecs == kPanelVecs ? dh : kBlock;
  for (int64_t k = 0; k < dh; k += block) {
    const int64_t count = dh - k < block ? dh - k : block;
    for (int v = 0; v < kPanelVecs; v += kVecs)
      multiply<R, kVecs>(y, panel + k * kPanel + v * kLanes, k, count, raw, v);
  }
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64_t j = q * kElements + v * kLanes, lanes = dh - j;
      if (lanes >= kLanes)
        advance_lanes<false>(group, raw[i][v][0], r + i, t, h, j, kLanes);
      else if (lanes > 0)
        advance_lanes<true>(group, raw[i][v][0], r + i, t, h, j, lanes);
    }
  }
}

/// All of the group's running sequences, panels [begin, end) of all heads' in order, at step t.
void advance_panels(const Group& group, int64_t begin, int64_t end, int64_t t) {
  const ops::SlstmArgs& args = *group.args;
  const int64_t dh = args.dims.dh;
  int64_t rows = group.count;
  while (rows > 0 && group.sequence(rows - 1).rows <= t) --rows;  // longest first
  const int64_t tiles = (rows + kRows - 1) / kRows;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t h = p / args.panels, q = p % args.panels;
    const float* panel = args.packed + p * dh * kPanel;
    for (int64_t i = 0, r = 0; i < tiles; ++i) {
      const int64_t count = rows / tiles + (i < rows % tiles ? 1 : 0);
      if (count == 1) advance_tile<1>(group, panel, h, q, r, t);
      if (count == 2) advance_tile<2>(group, panel, h, q, r, t);
      if (count == 3) advance_tile<3>(group, panel, h, q, r, t);
#if defined(__AVX512F__)
      if (count == 4) advance_tile<4>(group, panel, h, q, r, t);
      if (count == 5) advance_tile<5>(group, panel, h, q, r, t);
      if (count == 6) advance_tile<6>(group, panel, h, q, r, t);
#endif
      r += count;
    }
  }
}

}  // namespace

void slstm(const Stream& stream, const ops::SlstmArgs& args) {
  const int64_t heads = args.dims.heads, dh = args.dims.dh, panels = heads * args.panels;
  int64_t rows = 0;
  for (int64_t s = 0; s < args.batch; ++s) rows += args.sequences[s].rows;
  if (args.slices > 0) {
    const Group group = group_of(args, 0);
    parallel_steps(*stream.pool, args.slices, args.sequences[0].rows, [&](int64_t slice, int64_t t) {
      advance_panels(group, panels * slice / args.slices, panels * (slice + 1) / args.slices, t);
    });
  } else {
    parallel_workers(stream, heads * args.groups, rows * heads * dh * (8 * dh + 200), [&](int64_t, int64_t item) {
      const int64_t h = item % heads, first = item / heads;
      const Group group = group_of(args, first);
      for (int64_t t = 0; t < group.sequence(0).rows; ++t)
        advance_panels(group, h * args.panels, (h + 1) * args.panels, t);
    });
  }
  const auto bytes = sizeof(float) * static_cast<size_t>(heads * dh);
  for (int64_t s = 0; s < args.batch; ++s) {
    const ops::SlstmSequence& seq = args.sequences[s];
    std::memcpy(seq.y, args.out + (seq.first_row + seq.rows - 1) * heads * dh, bytes);
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
