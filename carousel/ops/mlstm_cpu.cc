// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell on CPUs. A task is one head of one sequence, or a block of its value columns, and walks the sequence
// piece by piece: one row is a recurrent step (one pass over C), more rows are a chunk (products of cached matrices).
// Tasks that share a head repeat its gates, n and denominators, so the division into blocks changes no bit.
#include "carousel/ops/mlstm.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kL = ops::kMlstmChunk;
constexpr int64_t kColumnUnit = 64;  // value columns of a task: a multiple of this

struct Head {
  const ops::MlstmArgs* args;
  int64_t h;
  int64_t first_column, width;  // block of value columns
  float* c;                     // [Dk, Dv] of this head, at first_column
  float* n;                     // [Dk]
  float m;
  float* scratch;
};

/// Soft-capped i and log-sigmoid of f for `count` rows.
struct Gates {
  float i[kL];
  float log_f[kL];
};

inline void soft_cap_row(float* x, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += kLanes) {
    const int64_t lanes = count - j < kLanes ? count - j : kLanes;
    const Vec v = lanes == kLanes ? load(x + j) : load_partial(x + j, lanes);
    const Vec capped = set1(cap) * tanh(v / set1(cap));
    lanes == kLanes ? store(x + j, capped) : store_partial(x + j, capped, lanes);
  }
}

void read_gates(const Head& head, int64_t first_row, int64_t count, Gates* gates) {
  const ops::MlstmArgs& args = *head.args;
  for (int64_t t = 0; t < count; ++t) {
    gates->i[t] = args.i_pre.data[(first_row + t) * args.i_pre.stride + head.h];
    gates->log_f[t] = args.f_pre.data[(first_row + t) * args.f_pre.stride + head.h];
  }
  if (args.dims.gate_soft_cap > 0) {
    soft_cap_row(gates->i, count, args.dims.gate_soft_cap);
    soft_cap_row(gates->log_f, count, args.dims.gate_soft_cap);
  }
  for (int64_t t = 0; t < count; ++t) {
    const float f = gates->log_f[t];
    // log(sigmoid(f)) itself would be -inf below -88.
    gates->log_f[t] = (f < 0 ? f : 0.0f) - std::log1p(std::exp(-std::fabs(f)));
  }
}

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

struct StepRows {
  float* c;  // [R, columns] rows of C, `stride` apart
  int64_t stride;
  const float* k;  // [R]
  const float* q;  // [R]
  float f_act, i_act;
  Scales scales;
};

/// R rows of C' = f C + i k v^T, and h += q^T C' while they are in registers. The next R rows are prefetched in
/// address order: with several streams per thread the hardware prefetcher gives up.
template <int R>
CAROUSEL_INLINE void step_rows(const StepRows& rows, const float* v, float* h, int64_t width) {
  const Vec f_act = set1(rows.f_act);
  Vec i_k[R], q[R];
  for (int r = 0; r < R; ++r) {
    i_k[r] = set1(rows.i_act * (rows.scales.k * rows.k[r]));
    q[r] = set1(rows.scales.q * rows.q[r]);
  }
  const float* ahead_row = rows.c + R * rows.stride;
  int64_t ahead = 0;
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    for (int64_t line = 0; line < R * kLanes / 16; ++line) {
      __builtin_prefetch(ahead_row + ahead, 1);
      ahead += 16;
      if (ahead >= width) {
        ahead = 0;
        ahead_row += rows.stride;
      }
    }
    const Vec v_j = load(v + j);
    Vec h_j = load(h + j);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float* c = rows.c + r * rows.stride + j;
      const Vec updated = fma(i_k[r], v_j, f_act * load(c));
      store(c, updated);
      h_j = fma(q[r], updated, h_j);
    }
    store(h + j, h_j);
  }
  if (const int64_t rest = width - j; rest > 0) {
    const Vec v_j = load_partial(v + j, rest);
    Vec h_j = load_partial(h + j, rest);
    for (int r = 0; r < R; ++r) {
      float* c = rows.c + r * rows.stride + j;
      const Vec updated = fma(i_k[r], v_j, f_act * load_partial(c, rest));
      store_partial(c, updated, rest);
      h_j = fma(q[r], updated, h_j);
    }
    store_partial(h + j, h_j, rest);
  }
}

void step(Head* head, int64_t row) {
  const ops::MlstmArgs& args = *head->args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  Gates gates;
  read_gates(*head, row, 1, &gates);
  const float decayed = gates.log_f[0] + head->m;
  const float m = decayed > gates.i[0] ? decayed : gates.i[0];
  const float f_act = std::exp(decayed - m), i_act = std::exp(gates.i[0] - m);
  const Scales scale = scales(args.dims);
  const float* q = args.q.data + row * args.q.stride + head->h * dk;                       // [Dk]
  const float* k = args.k.data + row * args.k.stride + head->h * dk;                       // [Dk]
  const float* v = args.v.data + row * args.v.stride + head->h * dv + head->first_column;  // [width]
  float* out = args.out + row * args.dims.heads * dv + head->h * dv + head->first_column;  // [width]

  for (int64_t d = 0; d < dk; ++d) head->n[d] = fma1(i_act, scale.k * k[d], f_act * head->n[d]);
  for (int64_t j = 0; j < head->width; ++j) out[j] = 0.0f;
  StepRows rows = {head->c, dv, k, q, f_act, i_act, scale};
  int64_t d = 0;
  for (; d + 4 <= dk; d += 4) {
    step_rows<4>(rows, v, out, head->width);
    rows.c += 4 * dv;
    rows.k += 4;
    rows.q += 4;
  }
  for (; d < dk; ++d) {
    step_rows<1>(rows, v, out, head->width);
    rows.c += dv;
    ++rows.k;
    ++rows.q;
  }
  const float norm = denominator(scale.q * dot(q, head->n, dk), m, args);
  for (int64_t j = 0; j < head->width; ++j) out[j] = out[j] / norm;
  head->m = m;
}

// ---- many rows -----------------------------------------------------------------------------------------------------

/// The decays of one chunk (xLSTM's stabilised chunkwise form): b is the running sum of log f, m_t the running maximum.
struct Decays {
  // log of the weight of row j in row t is (t_hi[t] + u_hi[j]) + (t_lo[t] + u_lo[j]), where t = b - m_t, u = i - b:
  // in two floats each, because b may be huge (-1e4 per row) where the difference is not.
  float t_hi[kL], t_lo[kL], u_hi[kL], u_lo[kL];
  float carry[kL];  // e^(b_t + m - m_t): weight of the carried state in row t
  float keep[kL];   // e^(b_L - b_j + i_j - m_next): weight of row j in the next state
  float m[kL];      // m_t
  float state;      // e^(b_L + m - m_next)
};

inline void split(double x, float* hi, float* lo) {
  *hi = static_cast<float>(x);
  *lo = static_cast<float>(x - static_cast<double>(*hi));
}

inline void exp_row(float* x, int64_t count) {
  for (int64_t j = 0; j < count; j += kLanes) {
    const int64_t lanes = count - j;
    if (lanes >= kLanes) {
      store(x + j, exp(load(x + j)));
    } else {
      store_partial(x + j, exp(load_partial(x + j, lanes)), lanes);
    }
  }
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
  decays->state = std::exp(decays->carry[count - 1]);
  exp_row(decays->carry, count);
  exp_row(decays->keep, count);
}

/// The matrices of one chunk, packed: rows that are a power of two apart would share cache sets.
struct Packed {
  float* q;    // [L, q_stride] scaled
  float* k_t;  // [Dk, L] keys scaled and transposed, zero beyond the chunk
  float* v;    // [L, v_stride] this block's value columns
  float* s;    // [L, L] scores
  int64_t q_stride, v_stride;
};

Packed pack(const Head& head, int64_t first_row, int64_t count) {
  const ops::MlstmArgs& args = *head.args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  Packed p;
  p.q_stride = (dk + 15) / 16 * 16;
  p.v_stride = (head.width + 15) / 16 * 16;
  p.q = head.scratch;
  p.k_t = p.q + kL * p.q_stride;
  p.v = p.k_t + kL * p.q_stride;
  p.s = p.v + kL * p.v_stride;
  const Scales scale = scales(args.dims);
  for (int64_t t = 0; t < count; ++t) {
    const float* q = args.q.data + (first_row + t) * args.q.stride + head.h * dk;                      // [Dk]
    const float* k = args.k.data + (first_row + t) * args.k.stride + head.h * dk;                      // [Dk]
    const float* v = args.v.data + (first_row + t) * args.v.stride + head.h * dv + head.first_column;  // [width]
    for (int64_t d = 0; d < dk; ++d) p.q[t * p.q_stride + d] = scale.q * q[d];
    for (int64_t d = 0; d < dk; ++d) p.k_t[d * kL + t] = scale.k * k[d];
    std::memcpy(p.v + t * p.v_stride, v, sizeof(float) * static_cast<size_t>(head.width));
  }
  for (int64_t d = 0; d < dk && count < kL; ++d) {
    std::memset(p.k_t + d * kL + count, 0, sizeof(float) * static_cast<size_t>(kL - count));
  }
  return p;
}

/// s = q k^T where j <= t: whole tiles, those above the diagonal left out.
void scores(const Packed& p, int64_t dk, int64_t count) {
  for_column_tiles<kTileVecs>(kL, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    for_row_tiles(count, [&]<int R>(int64_t t) {
      if (j >= t + R) return;
      Tile<R, V> tile = {};
      multiply_add<kPartial>(tile, p.q + t * p.q_stride, p.q_stride, 1, p.k_t + j, kL, dk, lanes);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) store(p.s + (t + r) * kL + j + v * kLanes, tile.acc[r][v]);
      }
    });
  });
}

/// Decays the scores, and leaves in norm[t] the denominator of row t.
void decay_scores(const Head& head, const Packed& p, const Decays& decays, int64_t count, float* norm) {
  const int64_t dk = head.args->dims.dk;
  for (int64_t t = 0; t < count; ++t) {
    const Vec t_hi = set1(decays.t_hi[t]), t_lo = set1(decays.t_lo[t]);
    float* s_t = p.s + t * kL;  // [L]
    Vec total = {};
    for (int64_t j = 0; j < kL; j += kLanes) {
      const int64_t lanes = t + 1 - j;
      if (lanes <= 0) {
        store(s_t + j, Vec{});
        continue;
      }
      const bool full = lanes >= kLanes;
      const Vec u_hi = full ? load(decays.u_hi + j) : load_partial(decays.u_hi + j, lanes, -INFINITY);
      const Vec u_lo = full ? load(decays.u_lo + j) : load_partial(decays.u_lo + j, lanes);
      const Vec s = (full ? load(s_t + j) : load_partial(s_t + j, lanes)) * exp((t_hi + u_hi) + (t_lo + u_lo));
      store(s_t + j, s);
      total = total + s;
    }
    const float carried = decays.carry[t] * dot(p.q + t * p.q_stride, head.n, dk);
    norm[t] = denominator(carried + sum(total), decays.m[t], *head.args);
  }
}

/// Keys weighted for the next state, in place, and n' = state n + their sum.
void weigh_keys(const Head& head, const Packed& p, Decays* decays, int64_t count) {
  for (int64_t j = count; j < kL; ++j) decays->keep[j] = 0.0f;
  for (int64_t d = 0; d < head.args->dims.dk; ++d) {
    float* k_d = p.k_t + d * kL;  // [L]
    Vec total = {};
    for (int64_t j = 0; j < kL; j += kLanes) {
      const Vec weighted = load(k_d + j) * load(decays->keep + j);
      store(k_d + j, weighted);
      total = total + weighted;
    }
    head.n[d] = fma1(decays->state, head.n[d], sum(total));
  }
}

void chunk(Head* head, int64_t first_row, int64_t count) {
  const ops::MlstmArgs& args = *head->args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  Gates gates;
  Decays decays;
  float norm[kL];
  read_gates(*head, first_row, count, &gates);
  chunk_decays(gates, count, head->m, &decays);
  const Packed p = pack(*head, first_row, count);
  scores(p, dk, count);
  decay_scores(*head, p, decays, count, norm);
  weigh_keys(*head, p, &decays, count);

  const int64_t out_stride = args.dims.heads * dv;
  float* out = args.out + first_row * out_stride + head->h * dv + head->first_column;  // [count, width]
  // A panel of C is read for h and then updated while it is in cache.
  for_column_tiles<kTileVecs>(head->width, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    for_row_tiles(count, [&]<int R>(int64_t t) {
      Tile<R, V> tile = {};
      multiply_add<kPartial>(tile, p.q + t * p.q_stride, p.q_stride, 1, head->c + j, dv, dk, lanes);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) tile.acc[r][v] = tile.acc[r][v] * set1(decays.carry[t + r]);
      }
      multiply_add<kPartial>(tile, p.s + t * kL, kL, 1, p.v + j, p.v_stride, t + R, lanes);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
          const Vec h = tile.acc[r][v] / set1(norm[t + r]);
          store_lanes<kPartial>(out + (t + r) * out_stride + j + v * kLanes, h, lanes);
        }
      }
    });
    for_row_tiles(dk, [&]<int R>(int64_t d) {
      Tile<R, V> tile;
      float* c = head->c + d * dv + j;
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
          tile.acc[r][v] = set1(decays.state) * load_lanes<kPartial>(c + r * dv + v * kLanes, lanes);
        }
      }
      multiply_add<kPartial>(tile, p.k_t + d * kL, kL, 1, p.v + j, p.v_stride, count, lanes);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) store_lanes<kPartial>(c + r * dv + v * kLanes, tile.acc[r][v], lanes);
      }
    });
  });
  head->m = decays.m[count - 1];
}

// ---- the division of the work --------------------------------------------------------------------------------------

/// Blocks of value columns per head: more than one only where heads alone would leave threads idle.
int64_t column_blocks(int64_t heads, int64_t threads, int64_t dv) {
  int64_t blocks = 1;
  while (heads * blocks < 2 * threads && heads * blocks % threads != 0 && dv / (2 * blocks) >= kColumnUnit) {
    blocks *= 2;
  }
  return blocks;
}

void walk(Head* head, const ops::MlstmSequence& seq) {
  for (int64_t t = 0; t < seq.rows;) {
    const int64_t to_grid = kL - (seq.pos + t) % kL;
    const int64_t count = to_grid < seq.rows - t ? to_grid : seq.rows - t;
    if (count == 1) {
      step(head, seq.first_row + t);
    } else {
      chunk(head, seq.first_row + t, count);
    }
    t += count;
  }
}

}  // namespace

void mlstm(const Stream& stream, const ops::MlstmArgs& args) {
  const int64_t heads = args.dims.heads, dk = args.dims.dk, dv = args.dims.dv;
  int64_t active = 0, rows = 0;
  for (int64_t s = 0; s < args.batch; ++s) {
    active += args.sequences[s].rows > 0 ? 1 : 0;
    rows += args.sequences[s].rows;
  }
  const int64_t blocks = column_blocks(active * heads, stream.pool->threads(), dv);
  const int64_t block_width = ((dv - 1) / blocks / kColumnUnit + 1) * kColumnUnit;
  parallel_workers(stream, args.batch * heads * blocks, rows * heads * dk * dv * 5, [&](int64_t worker, int64_t item) {
    const ops::MlstmSequence& seq = args.sequences[item / (heads * blocks)];
    const int64_t h = item / blocks % heads, first_column = item % blocks * block_width;
    if (seq.rows == 0 || first_column >= dv) return;
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
    if (seq.rows == 0) continue;
    std::memcpy(seq.n, seq.n_next, sizeof(float) * static_cast<size_t>(heads * dk));
    std::memcpy(seq.m, seq.m_next, sizeof(float) * static_cast<size_t>(heads));
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
