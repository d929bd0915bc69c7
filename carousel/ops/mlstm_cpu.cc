// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell on CPUs. A sequence of one row takes a recurrent step, one pass over C: a task is a block of rows of C
// of one head. A longer one is walked by tasks of one head, or of a block of its value columns, piece by piece: chunks
// are products of cached matrices, and C stays packed for them from the first to the last. Tasks that share a head
// repeat its gates, n and denominators, so the division into blocks changes no bit.
#include "carousel/ops/mlstm.h"

#include "carousel/cpu/ahead.h"
#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/transpose.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kL = ops::kMlstmChunk;
constexpr int64_t kColumnUnit = 64;  // value columns of a task: a multiple of this
// Rows of a tile. With AVX-512 eight are enough to keep the multipliers busy, and divide a chunk and most heads.
constexpr int kRows = kLanes == 16 ? 8 : kTileRows;

struct Head {
  const ops::MlstmArgs* args;
  int64_t h;
  int64_t first_column, width;  // block of value columns
  float* c;                     // [Dk, Dv] of this head, at first_column
  float* n;                     // [Dk]
  float m;
  float* scratch;
};

/// Soft-capped i and log-sigmoid of f of a chunk's rows.
struct Gates {
  float i[kL];
  float log_f[kL];
};

/// Soft-caps both gates of `count` places and replaces those of f by log sigmoid(f), in whole vectors: the arrays have
/// room for them.
inline void activate_gates(float* i, float* f, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += kLanes) {
    Vec i_j = load(i + j), f_j = load(f + j);
    if (cap > 0) {
      i_j = set1(cap) * tanh(i_j / set1(cap));
      f_j = set1(cap) * tanh(f_j / set1(cap));
    }
    store(i + j, i_j);
    store(f + j, log_sigmoid(f_j));
  }
}

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

inline float dot(const float* a, const float* b, int64_t count) {
  Vec acc = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) acc = fma(load(a + j), load(b + j), acc);
  if (j < count) acc = fma(load_partial(a + j, count - j), load_partial(b + j, count - j), acc);
  return sum(acc);
}

inline float denominator(float q_dot_n, float m, const ops::MlstmArgs& args) {
  const float floor = std::exp(-m);                              // +inf for m < -88: h is then 0
  const float magnitude = std::fabs(q_dot_n) + args.eps_in_max;  // adding zero changes no bit
  return (magnitude > floor ? magnitude : floor) + args.eps_outside;
}

struct Scales {
  float q, k;  // one is Dk^-1/2, the other 1, which changes no bit
};
inline Scales scales(const ops::MlstmDims& dims) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(dims.dk));
  return dims.scale_keys ? Scales{1.0f, scale} : Scales{scale, 1.0f};
}

// ---- one row -------------------------------------------------------------------------------------------------------

// C streams through the core as one run of addresses, this far ahead of it. Rows taken two or four at a time, which
// spares h some loads and stores, were no faster.
constexpr int64_t kAheadFloats = 2048;

/// Both activations of `count` heads of a row, and their new m in place of the old.
inline void step_gates(const float* i_pre, const float* f_pre, int64_t count, float cap, float* m,
                       ops::MlstmStep* steps) {
  for (int64_t h = 0; h < count; h += kLanes) {
    const int64_t lanes = count - h < kLanes ? count - h : kLanes;
    float i[kLanes], f[kLanes];
    store(i, load_at(i_pre + h, lanes));
    store(f, load_at(f_pre + h, lanes));
    activate_gates(i, f, kLanes, cap);
    const Vec decayed = load(f) + load_at(m + h, lanes);
    const Vec m_next = max(decayed, load(i));
    store(f, exp(decayed - m_next));
    store(i, exp(load(i) - m_next));
    lanes == kLanes ? store(m + h, m_next) : store_partial(m + h, m_next, lanes);
    for (int64_t j = 0; j < lanes; ++j) steps[h + j] = {f[j], i[j], 0};
  }
}

/// A row of C' = f C + (i k) v^T, and h += q C' while it is in registers.
inline void step_row(float* c, float f_act, float i_k, float q, const float* v, float* h, int64_t width) {
  const Vec f_v = set1(f_act), i_k_v = set1(i_k), q_v = set1(q);
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    if (j % 16 == 0) __builtin_prefetch(c + j + kAheadFloats);
    const Vec updated = fma(i_k_v, load(v + j), f_v * load(c + j));
    store(c + j, updated);
    store(h + j, fma(q_v, updated, load(h + j)));
  }
  if (const int64_t rest = width - j; rest > 0) {
    const Vec updated = fma(i_k_v, load_partial(v + j, rest), f_v * load_partial(c + j, rest));
    store_partial(c + j, updated, rest);
    store_partial(h + j, fma(q_v, updated, load_partial(h + j, rest)), rest);
  }
}

inline void prefetch(const float* p, int64_t count) {
  for (int64_t j = 0; j < count; j += 16) __builtin_prefetch(p + j);
}

/// One step of rows [first, end) of a head's C and n. share [width] becomes their share of q^T C'; returns that of
/// q.n'.
float step_block(const Head& head, int64_t row, int64_t first, int64_t end, const ops::MlstmStep& gates, float* share) {
  const ops::MlstmArgs& args = *head.args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  const Scales scale = scales(args.dims);
  const float* q = args.q.data + row * args.q.stride + head.h * dk;                      // [Dk]
  const float* k = args.k.data + row * args.k.stride + head.h * dk;                      // [Dk]
  const float* v = args.v.data + row * args.v.stride + head.h * dv + head.first_column;  // [width]
  // What the next block begins with, or the next head: they lie behind.
  prefetch(k + end, end - first);
  prefetch(q + end, end - first);
  prefetch(head.n + end, end - first);
  if (end == dk) prefetch(v + dv, dv);
  const float f_act = gates.f, i_act = gates.i;
  float* n = head.n;  // [Dk]
  for (int64_t j = first; j < end; ++j) n[j] = fma1(i_act, scale.k * k[j], f_act * n[j]);
  std::memset(share, 0, sizeof(float) * static_cast<size_t>(head.width));
  for (int64_t d = first; d < end; ++d) {
    step_row(head.c + d * dv, f_act, i_act * (scale.k * k[d]), scale.q * q[d], v, share, head.width);
  }
  return scale.q * dot(q + first, n + first, end - first);
}

/// The step of a whole head, or of a block of its columns, in a task that walks a longer sequence.
void step(Head* head, int64_t row) {
  const ops::MlstmArgs& args = *head->args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv, block = ops::mlstm_step_rows(dv);
  ops::MlstmStep gates;
  step_gates(args.i_pre.data + row * args.i_pre.stride + head->h, args.f_pre.data + row * args.f_pre.stride + head->h,
             1, args.dims.gate_soft_cap, &head->m, &gates);
  float* out = args.out + row * args.dims.heads * dv + head->h * dv + head->first_column;  // [width]
  float q_dot_n = 0.0f;
  for (int64_t first = 0; first < dk; first += block) {
    float* share = first == 0 ? out : head->scratch;
    q_dot_n += step_block(*head, row, first, first + block < dk ? first + block : dk, gates, share);
    for (int64_t j = 0; first > 0 && j < head->width; ++j) out[j] += share[j];
  }
  const float norm = denominator(q_dot_n, head->m, args);
  for (int64_t j = 0; j < head->width; ++j) out[j] = out[j] / norm;
}

/// Adds the shares of a head's blocks, in their order.
void finish_step(const Head& head, int64_t row, const float* shares, int64_t share_floats, int64_t blocks) {
  const ops::MlstmArgs& args = *head.args;
  float* out = args.out + row * args.dims.heads * args.dims.dv + head.h * args.dims.dv;  // [Dv]
  float q_dot_n = 0.0f;
  for (int64_t b = 0; b < blocks; ++b) q_dot_n += shares[(b + 1) * share_floats - 1];
  const float norm = denominator(q_dot_n, head.m, args);
  for (int64_t j = 0; j < head.width; j += kLanes) {  // shares have room for whole vectors
    Vec h = load(shares + j);
    for (int64_t b = 1; b < blocks; ++b) h = h + load(shares + b * share_floats + j);
    const int64_t lanes = head.width - j;
    lanes >= kLanes ? store(out + j, h / set1(norm)) : store_partial(out + j, h / set1(norm), lanes);
  }
}

/// All sequences of one row. A task is a block of rows of C; whoever ends the last one of a head adds their shares.
void step_all(const Stream& stream, const ops::MlstmArgs& args, int64_t active) {
  const int64_t heads = args.dims.heads, dk = args.dims.dk, dv = args.dims.dv;
  const int64_t block = ops::mlstm_step_rows(dv), blocks = (dk - 1) / block + 1;
  const int64_t share_floats = ops::mlstm_share_floats(dv);
  for (int64_t s = 0; s < args.batch; ++s) {
    const ops::MlstmSequence& seq = args.sequences[s];
    if (seq.rows != 1) continue;
    step_gates(args.i_pre.data + seq.first_row * args.i_pre.stride, args.f_pre.data + seq.first_row * args.f_pre.stride,
               heads, args.dims.gate_soft_cap, seq.m, args.steps + s * heads);
  }
  parallel_runs(stream, args.batch * heads * blocks, active * heads * dk * dv * 5, [&](int64_t item) {
    const int64_t s = item / (heads * blocks), h = item / blocks % heads, b = item % blocks;
    const ops::MlstmSequence& seq = args.sequences[s];
    if (seq.rows != 1) return;
    ops::MlstmStep& gates = args.steps[s * heads + h];
    const Head head = {&args, h, 0, dv, seq.c + h * dk * dv, seq.n + h * dk, seq.m[h], nullptr};
    float* shares = args.shares + (s * heads + h) * blocks * share_floats;
    float* share = shares + b * share_floats;
    const int64_t end = (b + 1) * block < dk ? (b + 1) * block : dk;
    share[share_floats - 1] = step_block(head, seq.first_row, b * block, end, gates, share);
    if (__atomic_add_fetch(&gates.blocks_done, 1, __ATOMIC_ACQ_REL) < blocks) return;
    finish_step(head, seq.first_row, shares, share_floats, blocks);
  });
}

// ---- many rows -----------------------------------------------------------------------------------------------------

/// The decays of one chunk (xLSTM's stabilised chunkwise form): b is the running sum of log f, m_t the running maximum.
struct Decays {
  // log of the weight of row j in row t is (t_hi[t] + u_hi[j]) + (t_lo[t] + u_lo[j]), where t = b - m_t, u = i - b:
  // in two floats each, because b may be huge (-1e4 per row) where the difference is not.
  float t_hi[kL], t_lo[kL], u_hi[kL], u_lo[kL];
  float carry[kL];  // e^(b_t + m - m_t): weight of the carried state in row t; then that over the row's denominator
  float keep[kL];   // e^(b_L - b_j + i_j - m_next): weight of row j in the next state, 0 beyond the chunk
  float m[kL];      // m_t
  float state;      // e^(b_L + m - m_next)
};

inline void split(double x, float* hi, float* lo) {
  *hi = static_cast<float>(x);
  *lo = static_cast<float>(x - static_cast<double>(*hi));
}

void read_chunk_gates(const Head& head, int64_t first_row, int64_t count, Gates* gates) {
  const ops::MlstmArgs& args = *head.args;
  for (int64_t t = 0; t < kL; ++t) {
    const int64_t row = first_row + (t < count ? t : 0);
    gates->i[t] = args.i_pre.data[row * args.i_pre.stride + head.h];
    gates->log_f[t] = args.f_pre.data[row * args.f_pre.stride + head.h];
  }
  activate_gates(gates->i, gates->log_f, kL, args.dims.gate_soft_cap);
}

void chunk_decays(const Gates& gates, int64_t count, float m_start, Decays* decays) {
  double b[kL];
  double sum_f = 0, m = m_start;
  for (int64_t t = 0; t < count; ++t) {
    sum_f += gates.log_f[t];
    b[t] = sum_f;
    m = m + gates.log_f[t] > gates.i[t] ? m + gates.log_f[t] : gates.i[t];
    decays->m[t] = static_cast<float>(m);
    split(b[t] - decays->m[t], &decays->t_hi[t], &decays->t_lo[t]);
    split(gates.i[t] - b[t], &decays->u_hi[t], &decays->u_lo[t]);
    decays->carry[t] = static_cast<float>(b[t] + m_start - decays->m[t]);
  }
  const double m_next = decays->m[count - 1];
  for (int64_t j = 0; j < count; ++j) {
    decays->keep[j] = static_cast<float>(sum_f - b[j] + gates.i[j] - m_next);
  }
  for (int64_t j = count; j < kL; ++j) decays->carry[j] = decays->keep[j] = -INFINITY;
  for (int64_t j = 0; j < kL; j += kLanes) {
    store(decays->carry + j, exp(load(decays->carry + j)));
    store(decays->keep + j, exp(load(decays->keep + j)));
  }
  decays->state = decays->carry[count - 1];
}

constexpr int64_t kPanel = kTileVecs * kLanes;  // columns of a panel of C or V

/// The matrices of one chunk, packed: rows that are a power of two apart would share cache sets.
struct Packed {
  float* q;    // [L, q_stride] scaled
  float* k_t;  // [Dk, L] keys scaled and transposed, zero beyond the chunk; later weighted for the next state
  float* s;    // [L, L] scores, then the weights of the values
  float* v;    // [panels] of [L, kPanel], v_stride apart
  float* c;    // [panels] of [Dk, kPanel], c_stride apart: this block of C, from the first to the last chunk of a run
  int64_t q_stride, v_stride, c_stride;
};

Packed packed_in(const Head& head) {
  const int64_t dk = head.args->dims.dk, panels = (head.width - 1) / kPanel + 1;
  Packed p;
  p.q_stride = (dk + 15) / 16 * 16 + 16;
  p.v_stride = (kL + 1) * kPanel;
  p.c_stride = (dk + 1) * kPanel;
  p.q = head.scratch;
  p.k_t = p.q + kL * p.q_stride;
  p.s = p.k_t + kL * dk;
  p.v = p.s + kL * kL;
  p.c = p.v + panels * p.v_stride;
  return p;
}

/// One row of a panel, `width` columns wide at least: what lies beyond them is zero.
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

void pack_values(const Head& head, const Packed& p, int64_t first_row, int64_t count) {
  const View& v = head.args->v;
  const float* rows = v.data + first_row * v.stride + head.h * head.args->dims.dv + head.first_column;  // [L, width]
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t j = 0; j < head.width; j += kPanel) {
      copy_to_panel(rows + t * v.stride + j, head.width - j, p.v + j / kPanel * p.v_stride + t * kPanel);
    }
  }
}
void pack_state(const Head& head, const Packed& p) {
  const int64_t dk = head.args->dims.dk, dv = head.args->dims.dv;
  for (int64_t d = 0; d < dk; ++d) {
    for (int64_t j = 0; j < head.width; j += kPanel) {
      copy_to_panel(head.c + d * dv + j, head.width - j, p.c + j / kPanel * p.c_stride + d * kPanel);
    }
  }
}
void unpack_state(const Head& head, const Packed& p) {
  const int64_t dk = head.args->dims.dk, dv = head.args->dims.dv;
  for (int64_t d = 0; d < dk; ++d) {
    for (int64_t j = 0; j < head.width; j += kPanel) {
      copy_from_panel(p.c + j / kPanel * p.c_stride + d * kPanel, head.width - j, head.c + d * dv + j);
    }
  }
}

/// Queries, and in `carried` [L] their products with the carried n.
void pack_queries(const Head& head, const Packed& p, int64_t first_row, int64_t count, float* carried) {
  const ops::MlstmArgs& args = *head.args;
  const int64_t dk = args.dims.dk;
  const Vec scale = set1(scales(args.dims).q);
  for (int64_t t = 0; t < count; ++t) {
    const float* q = args.q.data + (first_row + t) * args.q.stride + head.h * dk;  // [Dk]
    float* packed = p.q + t * p.q_stride;                                          // [Dk]
    Vec dot[2] = {};
    int64_t d = 0;
    for (int64_t i = 0; d + kLanes <= dk; d += kLanes, i ^= 1) {
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

/// Keys, and n' = state n + their weighted sum.
void pack_keys(const Head& head, const Packed& p, const Decays& decays, int64_t first_row, int64_t count) {
  const ops::MlstmArgs& args = *head.args;
  const int64_t dk = args.dims.dk;
  const Vec scale = set1(scales(args.dims).k);
  for (int64_t d = 0; d < dk; d += kLanes) {
    const int64_t lanes = dk - d < kLanes ? dk - d : kLanes;
    const bool full = lanes == kLanes;
    Vec n = set1(decays.state) * (full ? load(head.n + d) : load_partial(head.n + d, lanes));
    for (int64_t t = 0; t < kL; t += kLanes) {
      Vec block[kLanes];  // of rows
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        block[i] = Vec{};
        if (t + i >= count) continue;
        const float* k = args.k.data + (first_row + t + i) * args.k.stride + head.h * dk + d;
        block[i] = scale * (full ? load(k) : load_partial(k, lanes));
        n = fma(set1(decays.keep[t + i]), block[i], n);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        if (i < lanes) store(p.k_t + (d + i) * kL + t, block[i]);
      }
    }
    full ? store(head.n + d, n) : store_partial(head.n + d, n, lanes);
  }
}

/// s = q k^T where j <= t: whole tiles, those above the diagonal left out.
void scores(const Packed& p, int64_t dk, int64_t count) {
  for_column_tiles<kTileVecs>(kL, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    for_row_tiles<kRows>(count, [&]<int R>(int64_t t) {
      if (j >= t + R) return;
      Tile<R, V> tile = {};
      multiply_add<kPartial>(tile, p.q + t * p.q_stride, p.q_stride, 1, p.k_t + j, kL, dk, lanes);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) store(p.s + (t + r) * kL + j + v * kLanes, tile.acc[r][v]);
      }
    });
  });
}

/// Decays the scores and divides them, and the weight of the carried state, by the denominators of their rows.
void weigh_values(const Head& head, const Packed& p, const float* carried, int64_t count, Decays* decays) {
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
    const float norm = denominator(fma1(decays->carry[t], carried[t], sum(total)), decays->m[t], *head.args);
    decays->carry[t] = decays->carry[t] / norm;
    for (int64_t j = 0; j <= t; j += kLanes) store(s_t + j, load(s_t + j) / set1(norm));
  }
}

void weigh_keys(const Packed& p, int64_t dk, const Decays& decays) {
  for (int64_t d = 0; d < dk; ++d) {
    float* k_d = p.k_t + d * kL;  // [L]
    for (int64_t j = 0; j < kL; j += kLanes) store(k_d + j, load(k_d + j) * load(decays.keep + j));
  }
}

/// What chunks at `first_row` begin with.
RowsAhead rows_ahead(const Head& head, int64_t first_row, int64_t rows) {
  const ops::MlstmArgs& args = *head.args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  RowsAhead ahead(rows);
  const auto add = [&](const View& view, int64_t first, int64_t width) {
    ahead.add(view.data + first_row * view.stride + first, view.stride, width);
  };
  add(args.i_pre, head.h, 1);
  add(args.f_pre, head.h, 1);
  add(args.q, head.h * dk, dk);
  add(args.k, head.h * dk, dk);
  add(args.v, head.h * dv + head.first_column, head.width);
  return ahead;
}

struct Panel {
  const float* v;  // [L, kPanel]
  float* c;        // [Dk, kPanel]
  float* out;      // [count, width], out_stride apart
  int64_t out_stride, width;
};

/// One panel: h from C as it was and the chunk's values, then C', while they are in cache.
template <int V>
void chunk_panel(const Packed& p, const Decays& decays, int64_t dk, int64_t count, const Panel& panel, RowsAhead* ahead,
                 int64_t lines_per_tile) {
  const float* v = panel.v;
  float* c = panel.c;
  for_row_tiles<kRows>(count, [&]<int R>(int64_t t) {
    ahead->fetch(lines_per_tile);
    Tile<R, V> tile = {};
    multiply_add<false>(tile, p.q + t * p.q_stride, p.q_stride, 1, c, kPanel, dk, kLanes);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < V; ++i) tile.acc[r][i] = tile.acc[r][i] * set1(decays.carry[t + r]);
    }
    multiply_add<false>(tile, p.s + t * kL, kL, 1, v, kPanel, t + R < count ? t + R : count, kLanes);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < V; ++i) {
        float* h = panel.out + (t + r) * panel.out_stride + i * kLanes;
        const int64_t lanes = panel.width - i * kLanes;
        lanes >= kLanes ? store(h, tile.acc[r][i]) : store_partial(h, tile.acc[r][i], lanes);
      }
    }
  });
  const Vec state = set1(decays.state);
  for_row_tiles<kRows>(dk, [&]<int R>(int64_t d) {
    Tile<R, V> tile;
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < V; ++i) tile.acc[r][i] = state * load(c + (d + r) * kPanel + i * kLanes);
    }
    multiply_add<false>(tile, p.k_t + d * kL, kL, 1, v, kPanel, count, kLanes);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < V; ++i) store(c + (d + r) * kPanel + i * kLanes, tile.acc[r][i]);
    }
  });
}

/// `next` rows follow in the same run of chunks.
void chunk(Head* head, const Packed& p, int64_t first_row, int64_t count, int64_t next) {
  const ops::MlstmArgs& args = *head->args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  Gates gates;
  Decays decays;
  float carried[kL];
  read_chunk_gates(*head, first_row, count, &gates);
  chunk_decays(gates, count, head->m, &decays);
  pack_queries(*head, p, first_row, count, carried);
  pack_keys(*head, p, decays, first_row, count);
  pack_values(*head, p, first_row, count);
  scores(p, dk, count);
  head->m = decays.m[count - 1];
  weigh_values(*head, p, carried, count, &decays);
  weigh_keys(p, dk, decays);

  const int64_t out_stride = args.dims.heads * dv;
  float* out = args.out + first_row * out_stride + head->h * dv + head->first_column;  // [count, width]
  RowsAhead ahead = rows_ahead(*head, first_row + count, next);
  const int64_t panels = (head->width - 1) / kPanel + 1;
  const int64_t lines_per_tile = ahead.lines() / (panels * ((count - 1) / kRows + 1)) + 1;
  for (int64_t i = 0; i < panels; ++i) {
    const Panel panel = {p.v + i * p.v_stride, p.c + i * p.c_stride, out + i * kPanel, out_stride,
                         head->width - i * kPanel};
    panel.width <= kLanes ? chunk_panel<1>(p, decays, dk, count, panel, &ahead, lines_per_tile)
                          : chunk_panel<kTileVecs>(p, decays, dk, count, panel, &ahead, lines_per_tile);
  }
}

// ---- the division of the work --------------------------------------------------------------------------------------

/// Blocks of value columns per head. A block repeats the head's scores and packs its queries and keys again: as much
/// work as kRepeated of its columns.
int64_t column_blocks(int64_t heads, int64_t threads, int64_t dv) {
  constexpr int64_t kRepeated = 40;
  int64_t best = 1, best_work = INT64_MAX;
  for (int64_t blocks = 1; dv / blocks >= kColumnUnit; blocks *= 2) {
    const int64_t work = ((heads * blocks - 1) / threads + 1) * (kRepeated + dv / blocks);
    if (work >= best_work) continue;
    best = blocks;
    best_work = work;
  }
  return best;
}

/// Rows from `t` to the end of the sequence's piece or to the next chunk, whichever comes first.
inline int64_t piece(const ops::MlstmSequence& seq, int64_t t) {
  const int64_t to_grid = kL - (seq.pos + t) % kL, rest = seq.rows - t;
  return to_grid < rest ? to_grid : rest;
}

void walk(Head* head, const ops::MlstmSequence& seq) {
  const Packed p = packed_in(*head);
  bool in_panels = false;
  for (int64_t t = 0, count = piece(seq, 0), next = 0; t < seq.rows; t += count, count = next) {
    next = piece(seq, t + count);
    if (count > 1) {
      if (!in_panels) {
        rows_ahead(*head, seq.first_row + t, count).fetch_all();
        pack_state(*head, p);
      }
      in_panels = true;
      chunk(head, p, seq.first_row + t, count, next);
      continue;
    }
    if (in_panels) unpack_state(*head, p);
    in_panels = false;
    step(head, seq.first_row + t);
  }
  if (in_panels) unpack_state(*head, p);
}

}  // namespace

void mlstm(const Stream& stream, const ops::MlstmArgs& args) {
  const int64_t heads = args.dims.heads, dk = args.dims.dk, dv = args.dims.dv;
  int64_t active = 0, rows = 0, steps = 0;
  for (int64_t s = 0; s < args.batch; ++s) {
    const int64_t count = args.sequences[s].rows;
    steps += count == 1 ? 1 : 0;
    active += count > 1 ? 1 : 0;
    rows += count > 1 ? count : 0;
  }
  if (steps > 0) step_all(stream, args, steps);
  if (active == 0) return;
  const int64_t blocks = column_blocks(active * heads, stream.pool->threads(), dv);
  const int64_t block_width = ((dv - 1) / blocks / kColumnUnit + 1) * kColumnUnit;
  parallel_workers(stream, args.batch * heads * blocks, rows * heads * dk * dv * 5, [&](int64_t worker, int64_t item) {
    const ops::MlstmSequence& seq = args.sequences[item / (heads * blocks)];
    const int64_t h = item / blocks % heads, first_column = item % blocks * block_width;
    if (seq.rows < 2 || first_column >= dv) return;
    Head head = {};
    head.args = &args;
    head.h = h;
    head.first_column = first_column;
    head.width = dv - first_column < block_width ? dv - first_column : block_width;
    head.c = seq.c + h * dk * dv + first_column;
    head.m = seq.m[h];
    head.scratch = args.scratch + worker * args.scratch_floats;
    head.n = seq.n + h * dk;
    if (blocks > 1) {
      head.n = first_column == 0 ? seq.n_next + h * dk : head.scratch + args.scratch_floats - (dk + 15) / 16 * 16;
      std::memcpy(head.n, seq.n + h * dk, sizeof(float) * static_cast<size_t>(dk));
    }
    walk(&head, seq);
    if (first_column == 0) (blocks > 1 ? seq.m_next : seq.m)[h] = head.m;
  });
  for (int64_t s = 0; s < args.batch && blocks > 1; ++s) {
    const ops::MlstmSequence& seq = args.sequences[s];
    if (seq.rows < 2) continue;
    std::memcpy(seq.n, seq.n_next, sizeof(float) * static_cast<size_t>(heads * dk));
    std::memcpy(seq.m, seq.m_next, sizeof(float) * static_cast<size_t>(heads));
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
