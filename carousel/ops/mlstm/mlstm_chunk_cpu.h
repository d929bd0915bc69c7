// SPDX-License-Identifier: Apache-2.0
// A chunk of rows of one head as products of cached matrices (xLSTM's stabilised chunkwise form, arXiv:2503.14376). One
// thread prepares it. Then any thread may do any panel of its value columns: panels only read what the preparation
// wrote, and each has its own panel of C. Who does which is in mlstm_walk_cpu.h.
#pragma once

#include "carousel/cpu/matmul.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/transpose.h"
#include "carousel/ops/mlstm/mlstm_decays_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kPanel = kTileVecs * kLanes;  // columns of a panel of C or V

/// The matrices of one chunk, packed: rows that are a power of two apart would share cache sets.
struct Packed {
  float* q;    // [L, q_stride] scaled
  float* k_t;  // [Dk, L] keys scaled and transposed, zero beyond the chunk; later weighted for the next state
  float* s;    // [L, L] scores, then the weights of the values
  float* c;    // [panels] of [Dk, kPanel], c_stride apart: these columns of C, between chunks that follow each other
  int64_t q_stride, c_stride;
};

/// The matrices in a worker's scratch memory. They lie behind the panel of values [L, kPanel] that it works on.
Packed packed_in(float* scratch, int64_t dk) {
  Packed p;
  p.q_stride = (dk + 15) / 16 * 16 + 16;
  p.c_stride = (dk + 1) * kPanel;
  p.q = scratch + kL * kPanel;
  p.k_t = p.q + kL * p.q_stride;
  p.s = p.k_t + kL * dk;
  p.c = p.s + kL * kL;
  return p;
}

/// Copies a row's first `width` columns, at most kPanel, to a panel's row; fills that with zeros.
inline void copy_to_panel(const float* row, int64_t width, float* panel) {
#pragma GCC unroll 2
  for (int64_t j = 0; j < kPanel; j += kLanes) {
    const int64_t lanes = width - j;
    store(panel + j, lanes >= kLanes ? load(row + j) : lanes > 0 ? load_partial(row + j, lanes) : Vec{});
  }
}
inline void copy_from_panel(const float* panel, int64_t width, float* row) {
#pragma GCC unroll 2
  for (int64_t j = 0; j < kPanel; j += kLanes) {
    const int64_t lanes = width - j;
    if (lanes >= kLanes) {
      store(row + j, load(panel + j));
    } else if (lanes > 0) {
      store_partial(row + j, load(panel + j), lanes);
    }
  }
}

/// Packs the queries; `carried` [L] becomes their products with n of the state before.
void pack_queries(const Head& head, const Packed& p, int64_t first_row, int64_t count, float* carried) {
  constexpr int64_t kRowsAhead = 2;
  const Call& args = *head.args;
  const int64_t dk = args.dims.dk, stride = args.q.stride;
  const Vec scale = set1(ops::mlstm_scales(args.dims).q);
  for (int64_t t = 0; t < count; ++t) {
    const float* q = args.q.f32() + (first_row + t) * stride + head.h * dk;  // [Dk]
    const float* later = t + kRowsAhead < count ? q + kRowsAhead * stride : q;
    float* packed = p.q + t * p.q_stride;  // [Dk]
    Vec dot[2] = {};
    int64_t d = 0;
    for (int64_t i = 0; d + kLanes <= dk; d += kLanes, i ^= 1) {
      prefetch_near(later + d);
      const Vec scaled = scale * load(q + d);
      store(packed + d, scaled);
      dot[i] = fma(scaled, load(head.n + d), dot[i]);
    }
    if (const int64_t rest = dk - d; rest > 0) {
      const Vec scaled = scale * load_partial(q + d, rest);
      store_partial(packed + d, scaled, rest);
      dot[0] = fma(scaled, load_partial(head.n + d, rest), dot[0]);
    }
    carried[t] = sum(dot[0] + dot[1]);
  }
}

/// Packs `lanes` columns of the keys; n' = state n + the weighted sum of the keys.
CAROUSEL_INLINE void pack_key_columns(const float* k, int64_t stride, int64_t lanes, int64_t count, float scale_k,
                                      const Decays& decays, float* n, float* k_t) {
  const bool full = lanes == kLanes;
  const Vec scale = set1(scale_k);
  Vec n_d = set1(decays.state) * (full ? load(n) : load_partial(n, lanes));
  for (int64_t t = 0; t < kL; t += kLanes) {
    Vec block[kLanes];  // rows, then, transposed, columns
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      block[i] = Vec{};
      if (t + i >= count) continue;
      const float* k_row = k + (t + i) * stride;
      block[i] = scale * (full ? load(k_row) : load_partial(k_row, lanes));
      n_d = fma(set1(decays.keep[t + i]), block[i], n_d);
    }
    transpose(block);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      if (i < lanes) store(k_t + i * kL + t, block[i]);
    }
  }
  full ? store(n, n_d) : store_partial(n, n_d, lanes);
}

/// Packs the keys, and advances n.
void pack_keys(const Head& head, const Packed& p, const Decays& decays, int64_t first_row, int64_t count) {
  const Call& args = *head.args;
  const int64_t dk = args.dims.dk, stride = args.k.stride;
  const float scale = ops::mlstm_scales(args.dims).k;
  const float* k = args.k.f32() + first_row * stride + head.h * dk;  // [count, Dk]
  for (int64_t d = 0; d < dk; d += kLanes) {
    const int64_t lanes = dk - d < kLanes ? dk - d : kLanes;
    if (d % kLineFloats == 0 && d + kLineFloats < dk) {
      for (int64_t t = 0; t < count; ++t) prefetch_near(k + t * stride + d + kLineFloats);
    }
    if (lanes == kLanes && count == kL) {  // constants, from which the compiler makes a faster copy
      pack_key_columns(k + d, stride, kLanes, kL, scale, decays, head.n + d, p.k_t + d * kL);
    } else {
      pack_key_columns(k + d, stride, lanes, count, scale, decays, head.n + d, p.k_t + d * kL);
    }
  }
}

/// s = q k^T where j <= t, by whole tiles; tiles above the diagonal are left out.
void scores(const Packed& p, int64_t dk, int64_t count) {
  for_column_tiles<kTileVecs>(kL, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    for_row_tiles<kRows>(count, [&]<int R>(int64_t t) {
      if (j >= t + R) return;
      Tile<R, V> tile;
      clear_tile(tile.acc);
      multiply_add<kPartial>(tile, p.q + t * p.q_stride, p.q_stride, 1, p.k_t + j, kL, dk, lanes);
      store_tile(tile.acc, p.s + t * kL + j, kL);
    });
  });
}

/// Decays the scores. Divides them and `carry`, the weight of the state before, by the denominators of their rows.
void weigh_values(const Head& head, const Packed& p, const float* carried, int64_t first_row, int64_t count,
                  Decays* decays) {
  for (int64_t t = 0; t < count; ++t) {
    const Vec t_hi = set1(decays->t_hi[t]), t_lo = set1(decays->t_lo[t]);
    float* s_t = p.s + t * kL;  // [L]
    Vec total = {};
    for (int64_t j = 0; j < kL; j += kLanes) {
      const int64_t lanes = t + 1 - j;
      if (lanes <= 0) {
        store(s_t + j, Vec{});
        continue;
      }
      const bool full = lanes >= kLanes;
      const Vec u_hi = full ? load(decays->u_hi + j) : load_partial(decays->u_hi + j, lanes, -INFINITY);
      const Vec u_lo = full ? load(decays->u_lo + j) : load_partial(decays->u_lo + j, lanes);
      const Vec s = (full ? load(s_t + j) : load_partial(s_t + j, lanes)) * exp((t_hi + u_hi) + (t_lo + u_lo));
      store(s_t + j, s);
      total = total + s;
    }
    const float q_dot_n = fma1(decays->carry[t], carried[t], sum(total));
    const float norm = denominator(q_dot_n, decays->m[t], *head.args);
    keep_row(head, first_row + t, q_dot_n, decays->m[t]);
    decays->carry[t] = decays->carry[t] / norm;
    for (int64_t j = 0; j <= t; j += kLanes) store(s_t + j, load(s_t + j) / set1(norm));
  }
}

/// Weighs the keys for the next state.
void weigh_keys(const Packed& p, int64_t dk, const Decays& decays) {
  for (int64_t d = 0; d < dk; ++d) {
    float* k_d = p.k_t + d * kL;  // [L]
    for (int64_t j = 0; j < kL; j += kLanes) store(k_d + j, load(k_d + j) * load(decays.keep + j));
  }
}

/// The rows that a chunk at `first_row` reads first: its gates, queries, keys and values.
RowsAhead rows_ahead(const Head& head, int64_t first_row, int64_t rows) {
  const Call& args = *head.args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  RowsAhead ahead(rows);
  const auto add = [&](const View& view, int64_t first, int64_t width) {
    ahead.add(view.f32() + first_row * view.stride + first, view.stride, width);
  };
  add(args.i_pre, head.h, 1);
  add(args.f_pre, head.h, 1);
  add(args.q, head.h * dk, dk);
  add(args.k, head.h * dk, dk);
  add(args.v, head.h * dv + head.first_column, head.width);
  return ahead;
}

/// A prepared chunk, which its panels read.
struct Chunk {
  const Head* head;
  Packed p;
  Decays decays;
  int64_t first_row, count;
  bool loads, stores;  // panels read C from the state, and write it back; else C is packed, and stays so
  float* kept;  // where panels keep C as it is before the chunk [Dk, Dv], at the head's first column; may be null

  int64_t panels() const { return (head->width - 1) / kPanel + 1; }
  const float* v(int64_t panel) const {  // [count, kPanel], rows of v
    const View& all = head->args->v;
    return all.f32() + first_row * all.stride + head->h * head->args->dims.dv + head->first_column + panel * kPanel;
  }
  float* state(int64_t panel) const { return head->c + panel * kPanel; }  // [Dk, kPanel], Dv apart
};

/// Floats of scratch memory of one worker: a panel of values, a chunk's queries, keys and scores, C, and n at the end.
constexpr int64_t chunk_scratch_floats(int64_t dk, int64_t dv) {
  constexpr int64_t kWidestPanel = 64;
  const int64_t columns = (dv + kWidestPanel - 1) / kWidestPanel * kWidestPanel;
  const int64_t q = kL * (dk + 32), k = kL * dk, s = kL * kL, values = kL * kWidestPanel;
  return (values + q + k + s + (dk + 2) * columns + dk + 64 + 15) / 16 * 16;
}

/// Prepares a chunk: queries, keys, the weights of the values, n and m.
void prepare_chunk(Head* head, Chunk* chunk) {
  const int64_t dk = head->args->dims.dk, first_row = chunk->first_row, count = chunk->count;
  Gates gates;
  float carried[kL];
  read_chunk_gates(*head, first_row, count, &gates);
  chunk_decays(gates, count, head->m, &chunk->decays);
  pack_queries(*head, chunk->p, first_row, count, carried);
  pack_keys(*head, chunk->p, chunk->decays, first_row, count);
  scores(chunk->p, dk, count);
  head->m = chunk->decays.m[count - 1];
  weigh_values(*head, chunk->p, carried, first_row, count, &chunk->decays);
  weigh_keys(chunk->p, dk, chunk->decays);
}

/// Prefetched while a panel is multiplied, a share per tile: the loops of products leave time for it.
struct PanelAhead {
  RowsAhead* rows;  // rows of the next chunk, or null
  int64_t runs_per_tile;
  const float* values;  // the next panel's values [count, kPanel], or null
  int64_t values_per_tile;
  const float* c;  // the next panel of C [Dk, kPanel], in the state or packed, or null
  int64_t c_stride;
};

PanelAhead ahead_of(const Chunk& chunk, int64_t panel, RowsAhead* rows) {
  constexpr int64_t kNearFloats = int64_t{1} << 17;  // a second level of cache keeps so much of C
  const Head& head = *chunk.head;
  const int64_t dk = head.args->dims.dk, dv = head.args->dims.dv, tiles = (dk - 1) / kRows + 1;
  PanelAhead ahead = {};
  ahead.rows = rows;
  if (rows != nullptr) ahead.runs_per_tile = (rows->runs() - 1) / (chunk.panels() * tiles) + 1;
  if (panel + 1 == chunk.panels()) return ahead;
  ahead.values = chunk.v(panel + 1);
  ahead.values_per_tile = (chunk.count - 1) / tiles + 1;
  if (chunk.loads || chunk.stores) {
    ahead.c = chunk.state(panel + 1);
    ahead.c_stride = dv;
  } else if (dk * head.width > kNearFloats) {
    ahead.c = chunk.p.c + (panel + 1) * chunk.p.c_stride;
    ahead.c_stride = kPanel;
  }
  return ahead;
}

struct Panel {
  const float* v;  // [L, kPanel]
  float* c;        // [Dk, kPanel]
  float* out;      // [count, width], out_stride apart
  int64_t out_stride, width;
};

/// Prefetches a row of a panel.
CAROUSEL_INLINE void prefetch_row(const float* row) {
#pragma GCC unroll 4
  for (int64_t j = 0; j < kPanel; j += kLineFloats) prefetch_near(row + j);
}

/// Writes h of a panel's columns, from C as it was before the chunk and the chunk's values.
template <int V>
CAROUSEL_INLINE void panel_outputs(const Chunk& chunk, const Panel& panel) {
  const Packed& p = chunk.p;
  const int64_t dk = chunk.head->args->dims.dk, count = chunk.count;
  for_row_tiles<kRows>(count, [&]<int R>(int64_t t) CAROUSEL_INLINE_LAMBDA {
    float* out = panel.out + t * panel.out_stride;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) prefetch_row(out + r * panel.out_stride);
    Tile<R, V> tile;
    clear_tile(tile.acc);
    multiply_add<false>(tile, p.q + t * p.q_stride, p.q_stride, 1, panel.c, kPanel, dk, kLanes);
    scale_tile(tile.acc, [&](int r) { return chunk.decays.carry[t + r]; });
    multiply_add<false>(tile, p.s + t * kL, kL, 1, panel.v, kPanel, t + R < count ? t + R : count, kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) {
        float* h = out + r * panel.out_stride + i * kLanes;
        const int64_t lanes = panel.width - i * kLanes;
        lanes >= kLanes ? store(h, tile.acc[r][i]) : store_partial(h, tile.acc[r][i], lanes);
      }
    }
  });
}

/// Advances a panel of C to the chunk's end.
template <int V>
CAROUSEL_INLINE void panel_state(const Chunk& chunk, const Panel& panel, PanelAhead ahead) {
  const int64_t v_stride = chunk.head->args->v.stride;
  int64_t values_left = ahead.values != nullptr ? chunk.count : 0;
  for_row_tiles<kRows>(chunk.head->args->dims.dk, [&]<int R>(int64_t d) CAROUSEL_INLINE_LAMBDA {
    for (int64_t i = 0; i < ahead.runs_per_tile; ++i) ahead.rows->fetch();
    for (int64_t i = 0; i < ahead.values_per_tile && values_left > 0; ++i, --values_left, ahead.values += v_stride) {
      prefetch_row(ahead.values);
    }
    for (int r = 0; r < R && ahead.c != nullptr; ++r) prefetch_row(ahead.c + (d + r) * ahead.c_stride);
    float* c = panel.c + d * kPanel;
    Tile<R, V> tile;
    load_tile(tile.acc, c, kPanel);
    scale_tile(tile.acc, [&](int) { return chunk.decays.state; });
    multiply_add<false>(tile, chunk.p.k_t + d * kL, kL, 1, panel.v, kPanel, chunk.count, kLanes);
    store_tile(tile.acc, c, kPanel);
  });
}

/// Does one panel of a prepared chunk. values [L, kPanel] is the calling worker's. `rows` (may be null) is prefetched
/// meanwhile.
void chunk_panel(const Chunk& chunk, int64_t i, float* values, RowsAhead* rows) {
  const Head& head = *chunk.head;
  const ops::MlstmDims& dims = head.args->dims;
  const int64_t out_stride = dims.heads * dims.dv, width = head.width - i * kPanel;
  float* out = head.args->out.f32() + chunk.first_row * out_stride + head.h * dims.dv + head.first_column + i * kPanel;
  const Panel panel = {values, chunk.p.c + i * chunk.p.c_stride, out, out_stride, width};
  for (int64_t t = 0; t < chunk.count; ++t) {
    copy_to_panel(chunk.v(i) + t * head.args->v.stride, width, values + t * kPanel);
  }
  for (int64_t d = 0; d < dims.dk && chunk.loads; ++d) {
    copy_to_panel(chunk.state(i) + d * dims.dv, width, panel.c + d * kPanel);
  }
  for (int64_t d = 0; d < dims.dk && chunk.kept != nullptr; ++d) {
    copy_from_panel(panel.c + d * kPanel, width, chunk.kept + i * kPanel + d * dims.dv);
  }
  const PanelAhead ahead = ahead_of(chunk, i, rows);
  if (width <= kLanes) {
    panel_outputs<1>(chunk, panel);
    panel_state<1>(chunk, panel, ahead);
  } else {
    panel_outputs<kTileVecs>(chunk, panel);
    panel_state<kTileVecs>(chunk, panel, ahead);
  }
  for (int64_t d = 0; d < dims.dk && chunk.stores; ++d) {
    copy_from_panel(panel.c + d * kPanel, width, chunk.state(i) + d * dims.dv);
  }
}
}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
