// SPDX-License-Identifier: Apache-2.0
// The gradients of a chunk of rows of one head (xLSTM's stabilised chunkwise form, arXiv:2503.14376), as products of
// cached matrices. n is held as one more row of C^T, for values whose last column is 1; so its gradient is one more row
// of that of C^T.
//
// What the forward computes does not depend on the stabiliser m, but for eps, which is relative to e^m: C e^m, n e^m
// and
// (|q.n| or e^-m) e^m do not. So gradients are taken with C e^m and n e^m for variables, in which every weight of a row
// in another one is a product of gates. The gradient through eps goes beside them, from m to the gate that m was made
// from (Walk::d_m).
#pragma once

#include "carousel/ops/mlstm/mlstm_decays_cpu.h"
#include "carousel/ops/mlstm/mlstm_product_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kStates = ops::kMlstmBorder / kL + 1;  // states between two borders, the last one's end counted

/// A worker's matrices. L is kL, Dv+ is Dv + 1; rows are padded.
struct Matrices {
  int64_t k_row, v_row;  // elements of a row of Dk, and of Dv + 1
  float* q;              // [L, Dk] scaled
  float* carried_q;      // [L, Dk] scaled, and weighted as the state before the chunk is in the row
  float* k;              // [L, Dk] scaled
  float* kept_k;         // [L, Dk] scaled, and weighted for the next state
  float* k_t;            // [Dk, L] k transposed; later kept_k transposed
  float* v;              // [L, Dv+]
  float* v_t;            // [Dv, L]; later d_v's share through the next state, transposed
  float* d_num;          // [L, Dv+] gradients of the numerators; the last column: those of q.n
  float* s;              // [L, L] weights of the values, not divided by the denominators
  float* d_s;            // [L, L] gradients of s; later those of the scores
  float* d_q;            // [L, Dk] of scaled queries
  float* d_k;            // [L, Dk] of scaled keys
  float* d_v;            // [L, Dv]
  float* states;         // [kStates] of [Dv+, Dk]: C^T and n before each chunk since the last border
  float* d_state;        // [Dv+, Dk]

  float* state(int64_t i, int64_t dv) const { return states + i * (dv + 1) * k_row; }
};

/// Lays the matrices out over `memory`, null to count; `floats` becomes their size.
inline Matrices matrices_in(float* memory, int64_t dk, int64_t dv, int64_t* floats) {
  Matrices m = {};
  m.k_row = padded_row(dk);
  m.v_row = padded_row(dv + 1);
  int64_t used = 0;
  const auto take = [&](int64_t count) {
    float* const place = memory == nullptr ? nullptr : memory + used;
    used += (count + 15) / 16 * 16;
    return place;
  };
  for (float** matrix : {&m.q, &m.carried_q, &m.k, &m.kept_k, &m.d_q, &m.d_k}) *matrix = take(kL * m.k_row);
  for (float** matrix : {&m.v, &m.d_num, &m.d_v}) *matrix = take(kL * m.v_row);
  for (float** matrix : {&m.s, &m.d_s}) *matrix = take(kL * kL);
  m.k_t = take(kL * dk);
  m.v_t = take(kL * dv);
  m.states = take(kStates * (dv + 1) * m.k_row);
  m.d_state = take((dv + 1) * m.k_row);
  *floats = used;
  return m;
}

/// The backward of one head of one sequence, on its way from the last row to the first.
struct Walk {
  const ops::MlstmBackwardArgs* args;
  Head head;
  Matrices x;
  bool has_d_state = false;  // x.d_state holds the gradient of the state after the rows to come; else that is zero
  float d_m = 0;             // gradient of m after the rows to come, C e^m and n e^m held
};

/// One chunk.
struct Rows {
  int64_t first, count;  // rows of the batch
  float m_start;         // m before the chunk
  Gates gates;
  Decays decays;
};

/// What the visit of `count` rows from row `first` of the batch on reads first, and with `backward` writes.
inline Ahead rows_ahead(const Walk& walk, int64_t first, int64_t count, bool backward) {
  const ops::MlstmBackwardArgs& args = *walk.args;
  const ops::MlstmDims& dims = args.cell.dims;
  Ahead ahead = {RowsAhead(count), RowsAhead(backward ? count : 0), 0};
  const auto add = [&](RowsAhead* rows, const View& view, int64_t width) {
    if (view.data != nullptr) rows->add(view.f32() + first * view.stride + walk.head.h * width, view.stride, width);
  };
  add(&ahead.read, args.cell.i_pre, 1);
  add(&ahead.read, args.cell.f_pre, 1);
  add(&ahead.read, args.cell.k, dims.dk);
  add(&ahead.read, args.cell.v, dims.dv);
  if (!backward) return ahead;
  add(&ahead.read, args.cell.q, dims.dk);
  add(&ahead.read, args.d_out, dims.dv);
  add(&ahead.written, args.d_q, dims.dk);
  add(&ahead.written, args.d_k, dims.dk);
  add(&ahead.written, args.d_v, dims.dv);
  return ahead;
}
/// Divides what is prefetched among the tiles of a visit, which are at least so many.
inline void spread(Ahead* ahead, const ops::MlstmDims& dims, bool backward) {
  const int64_t tiles = ((dims.dv - 1) / kRows + 1) * ((dims.dk - 1) / (kTileVecs * kLanes) + 1);
  ahead->runs_per_tile = (ahead->read.runs() - 1) / (backward ? 4 * tiles : tiles) + 1;
}

inline void read_rows(const Walk& walk, int64_t first, int64_t count, float m_start, Rows* rows) {
  rows->first = first;
  rows->count = count;
  rows->m_start = m_start;
  read_chunk_gates(walk.head, first, count, &rows->gates);
  chunk_decays(rows->gates, count, m_start, &rows->decays);
}

/// Packs the keys weighted for the next state, and the values.
inline void pack_keys_and_values(const Walk& walk, const Rows& rows) {
  const ops::MlstmArgs& cell = walk.args->cell;
  const int64_t dk = cell.dims.dk, dv = cell.dims.dv;
  const float scale = ops::mlstm_scales(cell.dims).k;
  for (int64_t j = 0; j < rows.count; ++j) {
    const float* k = cell.k.f32() + (rows.first + j) * cell.k.stride + walk.head.h * dk;
    const float* v = cell.v.f32() + (rows.first + j) * cell.v.stride + walk.head.h * dv;
    float* const v_j = walk.x.v + j * walk.x.v_row;
    copy_to_padded(k, set1(scale * rows.decays.keep[j]), dk, walk.x.kept_k + j * walk.x.k_row);
    copy_to_padded(v, set1(1.0f), dv, v_j);
    v_j[dv] = 1.0f;
  }
}

/// The state after a chunk from that before it.
inline void advance_state(const Walk& walk, const Rows& rows, const float* before, float* after, Ahead* ahead) {
  const ops::MlstmDims& dims = walk.args->cell.dims;
  const Matrices& x = walk.x;
  pack_keys_and_values(walk, rows);
  Product state = {after, x.k_row, x.v, x.v_row, x.kept_k, x.k_row, dims.dv + 1, dims.dk, rows.count};
  state.from = before;
  state.scale = rows.decays.state;
  multiply<true>(state, ahead);
}

/// Packs what the gradients of a chunk are made from.
inline void pack_chunk(const Walk& walk, const Rows& rows) {
  const ops::MlstmArgs& cell = walk.args->cell;
  const int64_t dk = cell.dims.dk, dv = cell.dims.dv, heads = cell.dims.heads, h = walk.head.h;
  const ops::MlstmScales scale = ops::mlstm_scales(cell.dims);
  const Matrices& x = walk.x;
  pack_keys_and_values(walk, rows);
  for (int64_t t = 0; t < rows.count; ++t) {
    const int64_t row = rows.first + t;
    const float* q = cell.q.f32() + row * cell.q.stride + h * dk;
    const float* k = cell.k.f32() + row * cell.k.stride + h * dk;
    const View& d_out = walk.args->d_out;
    const float norm = denominator(cell.kept.q_dot_n[row * heads + h], cell.kept.m[row * heads + h], cell);
    copy_to_padded(q, set1(scale.q), dk, x.q + t * x.k_row);
    copy_to_padded(k, set1(scale.k), dk, x.k + t * x.k_row);
    copy_to_padded(d_out.f32() + row * d_out.stride + h * dv, set1(1.0f / norm), dv, x.d_num + t * x.v_row);
  }
  transpose_matrix<true>(x.k, x.k_row, rows.count, dk, x.k_t, kL);
  transpose_matrix<true>(x.v, x.v_row, rows.count, dv, x.v_t, kL);
}

/// Gradients of the logarithms of a chunk's gates, and of m through eps.
struct GateGradients {
  float log_f[kL];      // of each row's log f through pairs of rows of the chunk before and after it
  float i[kL];          // of each row's i
  float carry[kL];      // of the logarithm of each row's weight for the state before
  float keep[kL] = {};  // of the logarithm of each row's weight in the next state
  float m[kL];          // of each row's m, C e^m and n e^m held
};

/// The weights of row t's values from its scores; `decay` [L] becomes the weights' share of them. Returns the sum of
/// the weights' products with their gradients.
CAROUSEL_INLINE float weigh_row(const Decays& decays, int64_t t, int64_t columns, float* s, const float* d_s,
                                float* decay) {
  const Vec t_hi = set1(decays.t_hi[t]), t_lo = set1(decays.t_lo[t]);
  Vec total = {};
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int64_t lanes = t + 1 - j;
    Vec weight = {}, share = {};
    if (lanes > 0) {
      const bool full = lanes >= kLanes;
      const Vec u_hi = full ? load(decays.u_hi + j) : load_partial(decays.u_hi + j, lanes, -INFINITY);
      const Vec u_lo = full ? load(decays.u_lo + j) : load_partial(decays.u_lo + j, lanes);
      share = exp((t_hi + u_hi) + (t_lo + u_lo));
      weight = (full ? load(s + j) : load_partial(s + j, lanes)) * share;
      total = fma(weight, full ? load(d_s + j) : load_partial(d_s + j, lanes), total);
    }
    store(decay + j, share);
    store(s + j, weight);
  }
  return sum(total);
}

/// From the scores (in s), the products of d_num with values (d_s) and with the state before (d_q): weighs s, completes
/// d_num's last column, turns d_s into gradients of the scores, and makes d_q the queries' gradients through the state.
inline void weigh_rows(const Walk& walk, const Rows& rows, const float* n, GateGradients* gates) {
  const ops::MlstmArgs& cell = walk.args->cell;
  const int64_t dk = cell.dims.dk, dv = cell.dims.dv, heads = cell.dims.heads, h = walk.head.h;
  const int64_t columns = whole_lanes(rows.count);
  const Matrices& x = walk.x;
  float later[kL] = {};  // gradients of the logarithms of each row's weights in the rows from t on, added up
  float decay[kL];
  for (int64_t t = rows.count - 1; t >= 0; --t) {
    float *const s = x.s + t * kL, *const d_s = x.d_s + t * kL;
    float *const d_q = x.d_q + t * x.k_row, *const carried_q = x.carried_q + t * x.k_row;
    const float* const q = x.q + t * x.k_row;
    const float carry = rows.decays.carry[t];
    copy_to_padded(q, set1(carry), dk, carried_q);
    const float weighed = weigh_row(rows.decays, t, columns, s, d_s, decay) + dot(carried_q, d_q, dk);
    const int64_t at = (rows.first + t) * heads + h;
    const float q_dot_n = cell.kept.q_dot_n[at], m = cell.kept.m[at];
    const float d_norm = -weighed / denominator(q_dot_n, m, cell);
    const float d_q_dot_n = std::fabs(q_dot_n) > std::exp(-m) ? std::copysign(1.0f, q_dot_n) * d_norm : 0.0f;
    x.d_num[t * x.v_row + dv] = d_q_dot_n;
    gates->m[t] = d_norm * cell.eps_outside;

    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec d = j <= t ? load(d_s + j) + set1(d_q_dot_n) : Vec{};
      store(later + j, j <= t ? fma(d, load(s + j), load(later + j)) : load(later + j));
      store(d_s + j, j <= t ? d * load(decay + j) : Vec{});
    }
    Vec before = {};
    for (int64_t j = 0; j < t; j += kLanes) before = before + load_at(later + j, t - j);
    gates->log_f[t] = sum(before);
    for (int64_t d = 0; d < dk; d += kLanes) {
      store(d_q + d, set1(carry) * fma(set1(d_q_dot_n), load(n + d), load(d_q + d)));
    }
    gates->carry[t] = dot(q, d_q, dk);
  }
  std::memcpy(gates->i, later, sizeof later);
}

/// Makes d_k, which holds the products of values with the next state's gradient, the keys' gradients through that
/// state.
inline void weigh_keys_back(const Matrices& x, const Rows& rows, int64_t dk, GateGradients* gates) {
  for (int64_t j = 0; j < rows.count; ++j) {
    float* const d_k = x.d_k + j * x.k_row;
    const Vec keep = set1(rows.decays.keep[j]);
    for (int64_t d = 0; d < dk; d += kLanes) store(d_k + d, keep * load(d_k + d));
    gates->keep[j] = dot(x.k + j * x.k_row, d_k, dk);
  }
  for (int64_t d = 0; d < dk; ++d) {
    float* const k_d = x.k_t + d * kL;
    for (int64_t j = 0; j < whole_lanes(rows.count); j += kLanes) {
      store(k_d + j, load(k_d + j) * load(rows.decays.keep + j));
    }
  }
}

/// The sum of the products of two states' elements.
inline float state_dot(const float* a, const float* b, int64_t k_row, const ops::MlstmDims& dims) {
  Vec total = {};
  for (int64_t e = 0; e <= dims.dv; ++e) {
    Vec row = {};
    for (int64_t d = 0; d < dims.dk; d += kLanes) row = fma(load(a + e * k_row + d), load(b + e * k_row + d), row);
    total = total + row;
  }
  return sum(total);
}

/// Adds up the gradients of i and log f, and writes those of the pre-activations. `through` is the gradient of the
/// logarithm of the weight of the state before in the next one.
inline void write_gates(Walk* walk, const Rows& rows, const GateGradients& gates, float through) {
  const ops::MlstmBackwardArgs& args = *walk->args;
  const float cap = args.cell.dims.gate_soft_cap;
  const Gates& values = rows.gates;
  bool from_before[kL];  // m of the row is that of the row before, decayed
  double m = rows.m_start;
  for (int64_t t = 0; t < rows.count; ++t) {
    from_before[t] = m + values.log_f[t] > values.i[t];
    m = from_before[t] ? m + values.log_f[t] : values.i[t];
  }
  float d_i[kL] = {}, d_f[kL] = {}, kept[kL];
  float kept_before = 0;
  for (int64_t t = 0; t < rows.count; ++t) {
    kept[t] = kept_before;
    kept_before += gates.keep[t];
  }
  float carried = through;
  for (int64_t t = rows.count - 1; t >= 0; --t) {
    carried += gates.carry[t];
    walk->d_m += gates.m[t];
    d_f[t] = gates.log_f[t] + carried + kept[t] + (from_before[t] ? walk->d_m : 0.0f);
    d_i[t] = gates.i[t] + gates.keep[t] + (from_before[t] ? 0.0f : walk->d_m);
    if (!from_before[t]) walk->d_m = 0.0f;
  }
  float i_pre[kL] = {}, f_pre[kL] = {};
  for (int64_t t = 0; t < rows.count; ++t) {
    i_pre[t] = args.cell.i_pre.f32()[(rows.first + t) * args.cell.i_pre.stride + walk->head.h];
    f_pre[t] = args.cell.f_pre.f32()[(rows.first + t) * args.cell.f_pre.stride + walk->head.h];
  }
  for (int64_t t = 0; t < kL; t += kLanes) {
    Vec f = load(f_pre + t), slope_i = set1(1.0f), slope_f = set1(1.0f);
    if (cap > 0) {
      // 1 - tanh^2 x is 4 e^-2|x| / (1 + e^-2|x|)^2, which does not cancel where tanh x is near 1.
      const auto slope = [&](Vec x) {
        const Vec e = exp(set1(2.0f) * negative_abs(x / set1(cap))), one = set1(1.0f) + e;
        return set1(4.0f) * e / (one * one);
      };
      slope_i = slope(load(i_pre + t));
      slope_f = slope(f);
      f = ops::mlstm_capped<VecMath>(f, cap);
    }
    store(d_i + t, load(d_i + t) * slope_i);
    store(d_f + t, load(d_f + t) * sigmoid(-f) * slope_f);
  }
  for (int64_t t = 0; t < rows.count; ++t) {
    const int64_t row = rows.first + t, h = walk->head.h;
    if (args.d_i_pre.data != nullptr) args.d_i_pre.f32()[row * args.d_i_pre.stride + h] = d_i[t];
    if (args.d_f_pre.data != nullptr) args.d_f_pre.f32()[row * args.d_f_pre.stride + h] = d_f[t];
  }
}

/// Writes rows of one head's gradient, `scale` times a padded matrix; nothing where it is not wanted.
inline void write_rows(const View& to, int64_t h, const Rows& rows, const float* from, int64_t from_row, int64_t width,
                       float scale) {
  if (to.data == nullptr) return;
  for (int64_t t = 0; t < rows.count; ++t) {
    copy_from_padded(from + t * from_row, set1(scale), width, to.f32() + (rows.first + t) * to.stride + h * width);
  }
}

/// Writes the gradients of a chunk's rows; d_state turns from that of the state after the chunk into that of `before`,
/// where it is wanted.
inline void chunk_backward(Walk* walk, const Rows& rows, const float* before, bool wants_d_state, Ahead* ahead) {
  const ops::MlstmBackwardArgs& args = *walk->args;
  const ops::MlstmDims& dims = args.cell.dims;
  const int64_t dk = dims.dk, dv = dims.dv, count = rows.count, h = walk->head.h;
  const Matrices& x = walk->x;
  GateGradients gates;
  pack_chunk(*walk, rows);
  Product scores = {x.s, kL, x.q, x.k_row, x.k_t, kL, count, count, dk, Causal::kOut};
  Product d_weights = {x.d_s, kL, x.d_num, x.v_row, x.v_t, kL, count, count, dv, Causal::kOut};
  multiply<false>(scores, ahead);
  multiply<false>(d_weights, ahead);
  multiply<false>({x.d_q, x.k_row, x.d_num, x.v_row, before, x.k_row, count, dk, dv}, ahead);
  weigh_rows(*walk, rows, before + dv * x.k_row, &gates);
  Product d_q = {x.d_q, x.k_row, x.d_s, kL, x.k, x.k_row, count, dk, count, Causal::kTerms, x.d_q};
  multiply<false>(d_q, ahead);
  write_rows(args.d_q, h, rows, x.d_q, x.k_row, dk, ops::mlstm_scales(dims).q);

  if (walk->has_d_state) {
    multiply<false>({x.d_k, x.k_row, x.v, x.v_row, x.d_state, x.k_row, count, dk, dv + 1}, ahead);
    weigh_keys_back(x, rows, dk, &gates);
    multiply<false>({x.v_t, kL, x.d_state, x.k_row, x.k_t, kL, dv, count, dk}, ahead);
    transpose_matrix<true>(x.v_t, kL, dv, count, x.d_v, x.v_row);
  }
  Product d_k = {x.d_k, x.k_row, x.d_s, kL, x.q, x.k_row, count, dk, count, Causal::kTransposed};
  Product d_v = {x.d_v, x.v_row, x.s, kL, x.d_num, x.v_row, count, dv, count, Causal::kTransposed};
  d_k.from = walk->has_d_state ? x.d_k : nullptr;
  d_v.from = walk->has_d_state ? x.d_v : nullptr;
  multiply<true>(d_k, ahead);
  write_rows(args.d_k, h, rows, x.d_k, x.k_row, dk, ops::mlstm_scales(dims).k);
  multiply<true>(d_v, ahead);
  write_rows(args.d_v, h, rows, x.d_v, x.v_row, dv, 1.0f);

  float through = 0.0f;
  Product d_state = {x.d_state, x.k_row, x.d_num, x.v_row, x.carried_q, x.k_row, dv + 1, dk, count};
  d_state.scale = rows.decays.state;
  if (walk->has_d_state) {
    through = rows.decays.state * state_dot(before, x.d_state, x.k_row, dims);
    d_state.from = x.d_state;
  }
  if (wants_d_state) multiply<true>(d_state, ahead);
  walk->has_d_state = true;
  write_gates(walk, rows, gates, through);
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
