// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence on CPUs. A task is one head of a group of sequences and walks them in step: each time step is
// one product of their outputs [rows, dh] with the head's matrix, which stays in cache, and a pass over the elements.
// An element's sum is one chain over the head's inputs in any tile, so groups and cuts change no bit.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/ops/slstm.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kPanel = ops::kSlstmPanel;

/// Vectors across a tile of R rows: with one row only they keep the multiply-adds busy.
constexpr int tile_vecs(int rows) {
  const int wanted = rows == 1 ? 8 : rows == 2 ? 4 : kTileVecs;
  const int whole = static_cast<int>(kPanel / kLanes);
  return wanted < whole ? wanted : whole;
}

struct Group {
  const ops::SlstmArgs* args;
  int64_t h;
  int64_t first;   // sequences first, first + groups, ...
  int64_t count;   // of them
  float* y;        // [count, y_stride] outputs of the step before
  float* product;  // [count, product_stride] R y
  int64_t y_stride, product_stride;

  const ops::SlstmSequence& sequence(int64_t r) const { return args->sequences[first + r * args->groups]; }
};

template <int R>
CAROUSEL_INLINE void multiply_rows(const Group& group, const float* panel, int64_t r, float* product) {
  constexpr int V = tile_vecs(R);
  for (int64_t j = 0; j < kPanel; j += V * kLanes) {
    Vec acc[R][V] = {};
    const float* y = group.y + r * group.y_stride;
    for (int64_t k = 0; k < group.args->dims.dh; ++k) {
      Vec w[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) w[v] = load(panel + k * kPanel + j + v * kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < R; ++i) {
        const Vec y_ik = set1(y[i * group.y_stride + k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[i][v] = fma(y_ik, w[v], acc[i][v]);
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store(product + (r + i) * group.product_stride + j + v * kLanes, acc[i][v]);
    }
  }
}

void multiply(const Group& group, int64_t rows) {
  const ops::SlstmDims& dims = group.args->dims;
  const float* panel = group.args->packed + group.h * group.args->panels * dims.dh * kPanel;
  for (int64_t p = 0; p < group.args->panels; ++p, panel += dims.dh * kPanel) {
    for_row_tiles(rows, [&]<int R>(int64_t r) { multiply_rows<R>(group, panel, r, group.product + p * kPanel); });
  }
}

struct Cell {
  Vec y, c, n, m;
};

CAROUSEL_INLINE Cell advance(Cell old, Vec raw_i, Vec raw_f, Vec raw_z, Vec raw_o, Vec f_gate_max) {
  const Vec one = set1(1.0f);
  const Vec log_f = old.m + log_sigmoid(min(raw_f, f_gate_max));
  Cell next;
  next.m = old.n == Vec{} ? raw_i : max(raw_i, log_f);
  // Where n is 0 its decay may be infinite: capped before it meets the 0.
  const Vec i = min(one, exp(raw_i - next.m));
  const Vec f = min(one, exp(log_f - next.m));
  next.c = fma(f, old.c, i * tanh(raw_z));
  next.n = fma(f, old.n, i);
  next.y = sigmoid(raw_o) * (next.c / next.n);
  return next;
}

template <bool kPartial>
CAROUSEL_INLINE void advance_lanes(const Group& group, int64_t r, int64_t t, int64_t j, int64_t lanes) {
  const ops::SlstmArgs& args = *group.args;
  const ops::SlstmSequence& seq = group.sequence(r);
  const int64_t dh = args.dims.dh, width = args.dims.heads * dh, at = group.h * dh + j;
  const float* wx = args.wx + (seq.first_row + t) * 4 * width + at;     // gates D apart
  const float* product = group.product + r * group.product_stride + j;  // gates dh apart
  Vec raw[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    raw[g] = load_lanes<kPartial>(wx + g * width, lanes) + load_lanes<kPartial>(product + g * dh, lanes);
  }
  const Cell old = {Vec{}, load_lanes<kPartial>(seq.c + at, lanes), load_lanes<kPartial>(seq.n + at, lanes),
                    load_lanes<kPartial>(seq.m + at, lanes)};
  const Cell next = advance(old, raw[0], raw[1], raw[2], raw[3], set1(args.dims.f_gate_max));
  store_lanes<kPartial>(seq.c + at, next.c, lanes);
  store_lanes<kPartial>(seq.n + at, next.n, lanes);
  store_lanes<kPartial>(seq.m + at, next.m, lanes);
  store_lanes<kPartial>(group.y + r * group.y_stride + j, next.y, lanes);
  store_lanes<kPartial>(args.out + (seq.first_row + t) * width + at, next.y, lanes);
}

void walk(const Group& group) {
  const int64_t dh = group.args->dims.dh;
  const auto bytes = sizeof(float) * static_cast<size_t>(dh);
  for (int64_t r = 0; r < group.count; ++r) {
    std::memcpy(group.y + r * group.y_stride, group.sequence(r).y + group.h * dh, bytes);
  }
  int64_t active = group.count;
  for (int64_t t = 0; t < group.sequence(0).rows; ++t) {
    while (group.sequence(active - 1).rows <= t) --active;  // longest first
    multiply(group, active);
    for (int64_t r = 0; r < active; ++r) {
      int64_t j = 0;
      for (; j + kLanes <= dh; j += kLanes) advance_lanes<false>(group, r, t, j, kLanes);
      if (j < dh) advance_lanes<true>(group, r, t, j, dh - j);
    }
  }
  for (int64_t r = 0; r < group.count; ++r) {
    std::memcpy(group.sequence(r).y + group.h * dh, group.y + r * group.y_stride, bytes);
  }
}

}  // namespace

void slstm(const Stream& stream, const ops::SlstmArgs& args) {
  const int64_t heads = args.dims.heads, dh = args.dims.dh;
  int64_t rows = 0;
  for (int64_t s = 0; s < args.batch; ++s) rows += args.sequences[s].rows;
  parallel_workers(stream, heads * args.groups, rows * heads * dh * (8 * dh + 200), [&](int64_t worker, int64_t item) {
    Group group = {};
    group.args = &args;
    group.h = item % heads;
    group.first = item / heads;
    group.count = (args.batch - group.first - 1) / args.groups + 1;
    group.y_stride = (dh + 15) / 16 * 16;
    group.product_stride = args.panels * kPanel;
    group.y = args.scratch + worker * args.scratch_floats;
    group.product = group.y + group.count * group.y_stride;
    walk(group);
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
