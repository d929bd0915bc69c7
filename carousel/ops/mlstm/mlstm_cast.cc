// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell operation by operation, as transformers computes it (arXiv:2405.04517, sec. 2.3; arXiv:2503.14376),
// with every result rounded to the type it has there. A task is one head of one sequence.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/rounding.h"
#include "carousel/ops/mlstm/mlstm_head_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

struct CastHead {
  explicit CastHead(const ops::CastMlstmArgs& from)
      : args(from), round(from.activations), held(from.states), gate(from.gates) {}
  const ops::CastMlstmArgs& args;
  Rounding round, held, gate;  // activations; states, and a chunk's decays and sums; log-sigmoid
  int64_t h = 0;
  float* c = nullptr;  // [Dk, Dv]
  float* n = nullptr;  // [Dk]
  float m = 0;
  // Scratch: of a chunk, the running sum of log f, i, the weight of each row in the next state, and in the current row.
  float *b = nullptr, *i = nullptr, *keep = nullptr, *s = nullptr;  // [L]
  float *q = nullptr, *k = nullptr;                                 // [Dk]
  float *num = nullptr, *carried = nullptr, *added = nullptr;       // [Dv]

  int64_t dk() const { return args.cell.dims.dk; }
  int64_t dv() const { return args.cell.dims.dv; }
  const float* q_row(int64_t row) const { return args.cell.q.f32() + row * args.cell.q.stride + h * dk(); }
  const float* k_row(int64_t row) const { return args.cell.k.f32() + row * args.cell.k.stride + h * dk(); }
  const float* v_row(int64_t row) const { return args.cell.v.f32() + row * args.cell.v.stride + h * dv(); }
  float* out_row(int64_t row) const { return args.cell.out.f32() + (row * args.cell.dims.heads + h) * dv(); }
  float q_scale() const { return ops::mlstm_scales(args.cell.dims).q; }
  float k_scale() const { return ops::mlstm_scales(args.cell.dims).k; }
  float capped(float x) const { return ops::mlstm_capped<VecMath>(set1(x), args.cell.dims.gate_soft_cap)[0]; }
  float input_gate(int64_t row) const { return capped(args.cell.i_pre.f32()[row * args.cell.i_pre.stride + h]); }
  float log_forget(int64_t row) const {
    const float f = capped(args.cell.f_pre.f32()[row * args.cell.f_pre.stride + h]);
    return gate((f < 0 ? f : 0.0f) - std::log1p(std::exp(-std::fabs(f))));
  }
};

inline float larger(float a, float b) { return a > b ? a : b; }

inline float dot_product(const float* a, const float* b, int64_t count) {
  float sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += a[j] * b[j];
  return sum;
}

/// One row; the states stay in f32 until the call ends.
void step(CastHead* head, int64_t row) {
  const int64_t dk = head->dk(), dv = head->dv();
  const Rounding round = head->round;
  const float i = head->input_gate(row), decayed = head->log_forget(row) + head->m;
  const float m = larger(decayed, i);
  const float f_act = std::exp(decayed - m), i_act = std::exp(i - m);
  const float* v = head->v_row(row);  // [Dv]
  for (int64_t d = 0; d < dk; ++d) {
    head->q[d] = round(head->q_row(row)[d] * head->q_scale());
    head->k[d] = round(head->k_row(row)[d] * head->k_scale());
  }
  float* num = head->num;
  for (int64_t j = 0; j < dv; ++j) num[j] = 0.0f;
  float q_dot_n = 0;
  for (int64_t d = 0; d < dk; ++d) {
    head->n[d] = f_act * head->n[d] + i_act * head->k[d];
    q_dot_n += head->q[d] * round(head->n[d]);
    float* c = head->c + d * dv;  // [Dv]
    const float q_d = head->q[d], k_d = head->k[d];
    for (int64_t j = 0; j < dv; ++j) {
      c[j] = f_act * c[j] + i_act * round(k_d * v[j]);
      num[j] += q_d * round(c[j]);
    }
  }
  const ops::MlstmArgs& cell = head->args.cell;
  const float magnitude = std::fabs(round(q_dot_n)) + cell.eps_in_max;
  const float norm = larger(magnitude, std::exp(-m)) + cell.eps_outside;
  float* out = head->out_row(row);
  for (int64_t j = 0; j < dv; ++j) out[j] = round(round(num[j]) / norm);
  head->m = m;
}

/// h of row t of a chunk from the state before it.
void chunk_row(CastHead* head, int64_t first_row, int64_t t) {
  const int64_t dk = head->dk(), dv = head->dv(), row = first_row + t;
  const Rounding round = head->round, held = head->held;
  const float inter = held(head->b[t] + head->m);
  float m = inter;
  for (int64_t j = 0; j <= t; ++j) {
    head->s[j] = held(held(head->b[t] - head->b[j]) + head->i[j]);
    m = larger(m, head->s[j]);
  }
  const float carry = held(std::exp(held(inter - m)));
  double total = 0;
  for (int64_t j = 0; j < dv; ++j) head->added[j] = head->carried[j] = 0.0f;
  for (int64_t j = 0; j <= t; ++j) {
    const float* k = head->k_row(first_row + j);
    for (int64_t d = 0; d < dk; ++d) head->k[d] = round(k[d] * head->k_scale());
    const float score = round(round(dot_product(head->q_row(row), head->k, dk)) * head->q_scale());
    const float weight = round(score * held(std::exp(held(head->s[j] - m))));
    total += static_cast<double>(weight);
    const float* v = head->v_row(first_row + j);
    for (int64_t e = 0; e < dv; ++e) head->added[e] += weight * v[e];
  }
  for (int64_t d = 0; d < dk; ++d) {
    head->q[d] = round(round(head->q_row(row)[d] * carry) * head->q_scale());
    const float* c = head->c + d * dv;
    for (int64_t e = 0; e < dv; ++e) head->carried[e] += head->q[d] * c[e];
  }
  const ops::MlstmArgs& cell = head->args.cell;
  const float carried_norm = round(dot_product(head->q, head->n, dk));
  const float magnitude = held(std::fabs(round(carried_norm + round(static_cast<float>(total)))) + cell.eps_in_max);
  const float norm = held(larger(magnitude, held(std::exp(-m))) + cell.eps_outside);
  float* out = head->out_row(row);
  for (int64_t e = 0; e < dv; ++e) {
    out[e] = round(round(round(head->carried[e]) + round(head->added[e])) / norm);
  }
}

/// `count` rows at once, and the state after them.
void chunk(CastHead* head, int64_t first_row, int64_t count) {
  const int64_t dk = head->dk(), dv = head->dv();
  const Rounding round = head->round, held = head->held;
  double sum = 0;
  for (int64_t t = 0; t < count; ++t) {
    sum += static_cast<double>(head->log_forget(first_row + t));
    head->b[t] = held(static_cast<float>(sum));
    head->i[t] = head->input_gate(first_row + t);
  }
  for (int64_t t = 0; t < count; ++t) chunk_row(head, first_row, t);

  const float last = head->b[count - 1], decayed = held(last + head->m);
  float m = decayed;
  for (int64_t t = 0; t < count; ++t) {
    head->keep[t] = held(held(last - head->b[t]) + head->i[t]);
    m = larger(m, head->keep[t]);
  }
  for (int64_t t = 0; t < count; ++t) head->keep[t] = held(std::exp(held(head->keep[t] - m)));
  const float decay = held(std::exp(held(decayed - m)));
  for (int64_t d = 0; d < dk; ++d) {
    double keys = 0;
    for (int64_t e = 0; e < dv; ++e) head->added[e] = 0.0f;
    for (int64_t t = 0; t < count; ++t) {
      const float key = round(round(head->k_row(first_row + t)[d] * head->k_scale()) * head->keep[t]);
      keys += static_cast<double>(key);
      const float* v = head->v_row(first_row + t);
      for (int64_t e = 0; e < dv; ++e) head->added[e] += key * v[e];
    }
    float* c = head->c + d * dv;
    for (int64_t e = 0; e < dv; ++e) c[e] = held(held(decay * c[e]) + held(head->added[e]));
    head->n[d] = held(held(decay * head->n[d]) + held(static_cast<float>(keys)));
  }
  head->m = m;
}

struct CastLayout {
  ZeroStates zeros;
  Sequence* sequences;  // [B]
  int64_t chunk_rows, scratch_floats;
  float* scratch;  // [threads, scratch_floats]
};

CastLayout lay_out(const Stream& stream, const ops::MlstmArgs& cell, Workspace& workspace) {
  const int64_t rows = cell.seqs.rows();
  CastLayout layout;
  layout.zeros = take_zero_states(cell, workspace);
  layout.sequences = workspace.take<Sequence>(cell.seqs.batch);
  layout.chunk_rows = cell.dims.call_chunk < rows ? cell.dims.call_chunk : rows;
  layout.scratch_floats = (4 * layout.chunk_rows + 2 * cell.dims.dk + 3 * cell.dims.dv + 15) / 16 * 16;
  layout.scratch = workspace.take<float>(stream.threads() * layout.scratch_floats);
  return layout;
}

/// Divides a thread's scratch memory among what a head needs.
void give_scratch(CastHead* head, float* scratch, int64_t chunk_rows) {
  float** const by_row[] = {&head->b, &head->i, &head->keep, &head->s};
  float** const by_key[] = {&head->q, &head->k};
  float** const by_value[] = {&head->num, &head->carried, &head->added};
  for (float** part : by_row) {
    *part = scratch;
    scratch += chunk_rows;
  }
  for (float** part : by_key) {
    *part = scratch;
    scratch += head->dk();
  }
  for (float** part : by_value) {
    *part = scratch;
    scratch += head->dv();
  }
}

}  // namespace

int64_t cast_mlstm_workspace(const Stream& stream, const ops::CastMlstmArgs& args) {
  Workspace counted;
  lay_out(stream, args.cell, counted);
  return counted.bytes();
}

void cast_mlstm(const Stream& stream, const ops::CastMlstmArgs& args) {
  const ops::MlstmArgs& cell = args.cell;
  const int64_t heads = cell.dims.heads, dk = cell.dims.dk, dv = cell.dims.dv, chunk_rows = cell.dims.call_chunk;
  Workspace workspace(cell.workspace);
  const CastLayout layout = lay_out(stream, cell, workspace);
  layout.zeros.clear();
  list_sequences(cell, layout.zeros.c, layout.zeros.n, layout.zeros.m, nullptr, nullptr, layout.sequences);
  const int64_t work = cell.seqs.rows() * heads * dk * dv * 10;
  parallel_workers(stream, cell.seqs.batch * heads, work, [&](int64_t worker, int64_t item) {
    const Sequence& seq = layout.sequences[item / heads];
    if (seq.rows == 0) return;
    CastHead head(args);
    head.h = item % heads;
    head.c = seq.c + head.h * dk * dv;
    head.n = seq.n + head.h * dk;
    head.m = seq.m[head.h];
    give_scratch(&head, layout.scratch + worker * layout.scratch_floats, layout.chunk_rows);
    int64_t t = 0;
    for (; args.chunks && seq.rows > 1 && t + chunk_rows <= seq.rows; t += chunk_rows) {
      chunk(&head, seq.first_row + t, chunk_rows);
    }
    for (; t < seq.rows; ++t) step(&head, seq.first_row + t);
    seq.m[head.h] = head.m;
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
