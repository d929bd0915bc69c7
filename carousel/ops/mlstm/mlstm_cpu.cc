// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell on CPUs. A sequence of one row takes a recurrent step, one pass over C: a task is a block of rows of C
// of one head. A longer one is walked by one thread per head, or per block of its value columns, piece by piece: chunks
// are products of cached matrices, and C stays packed for them from the first to the last. Threads that have no walk
// left take panels of the others'. Walks that share a head repeat its gates, n and denominators, so neither division
// changes a bit.
#include "carousel/ops/mlstm/mlstm.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/offer.h"
#include "carousel/ops/mlstm/mlstm_chunk_cpu.h"
#include "carousel/ops/mlstm/mlstm_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kColumnUnit = 64;  // value columns of a walk: a multiple of this

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

/// Blocks of value columns per head: with fewer heads than threads, as many as leave each block a thread.
int64_t column_blocks(int64_t heads, int64_t threads, int64_t dv) {
  int64_t blocks = 1;
  while (heads * blocks * 2 <= threads && dv / (blocks * 2) >= kColumnUnit) blocks *= 2;
  return blocks;
}

/// Rows from `t` to the end of the sequence's piece or to the next chunk, whichever comes first.
inline int64_t piece(const ops::MlstmSequence& seq, int64_t t) {
  const int64_t to_grid = kL - (seq.pos + t) % kL, rest = seq.rows - t;
  return to_grid < rest ? to_grid : rest;
}

/// What a thread works on: a head's rows in order, and the chunk whose panels others may take.
struct Walk {
  Offer offer;
  const Chunk* chunk;
};

/// Panels go to threads in pieces: one by one, unless that were more pieces than an Offer has.
int64_t panels_of_piece(const Chunk& chunk) { return (chunk.panels() - 1) / Offer::kMostPieces + 1; }

void chunk_piece(const Chunk& chunk, int64_t i, float* values, RowsAhead* rows) {
  const int64_t panels = panels_of_piece(chunk), first = i * panels, rest = chunk.panels() - first;
  for (int64_t j = 0; j < panels && j < rest; ++j) chunk_panel(chunk, first + j, values, rows);
}

void walk_rows(Head* head, const ops::MlstmSequence& seq, Walk* walk) {
  Chunk chunk;
  chunk.head = head;
  chunk.p = packed_in(head->scratch, head->args->dims.dk);
  chunk.stores = true;
  walk->chunk = &chunk;
  for (int64_t t = 0, count = piece(seq, 0), next = 0; t < seq.rows; t += count, count = next) {
    next = piece(seq, t + count);
    if (count == 1) {
      step(head, seq.first_row + t);
      continue;
    }
    chunk.first_row = seq.first_row + t;
    chunk.count = count;
    chunk.loads = chunk.stores;  // where the one before left it
    chunk.stores = next <= 1;
    if (chunk.loads) rows_ahead(*head, chunk.first_row, count).fetch_all();
    prepare_chunk(head, &chunk);
    RowsAhead ahead = rows_ahead(*head, chunk.first_row + count, next);
    const int64_t pieces = (chunk.panels() - 1) / panels_of_piece(chunk) + 1;
    walk->offer.share(pieces, seq.rows - t, [&](int64_t i) { chunk_piece(chunk, i, head->scratch, &ahead); });
  }
}

/// Panels of the walk that has most left to do; false if no thread shares any.
bool help_a_walk(Walk* walks, int64_t count, float* values) {
  Walk* best = walks;
  for (int64_t w = 1; w < count; ++w) best = walks[w].offer.left() > best->offer.left() ? walks + w : best;
  return best->offer.left() > 0 && best->offer.help([&](int64_t i) { chunk_piece(*best->chunk, i, values, nullptr); });
}

/// f(worker, item, walk) for every item; a worker that finds none left helps with those that are not done.
template <class F>
void parallel_walks(const Stream& stream, const ops::MlstmArgs& args, int64_t items, int64_t total_work, F&& f) {
  constexpr int64_t kMostWorkers = 128;
  const int64_t threads = stream.pool->threads() < kMostWorkers ? stream.pool->threads() : kMostWorkers;
  const int64_t workers = total_work < 2 * kTaskWork ? 1 : threads;
  Walk walks[kMostWorkers];
  int64_t next = 0, ended = 0;
  parallel_for(*stream.pool, workers, [&](int64_t worker) {
    for (;;) {
      const int64_t item = __atomic_fetch_add(&next, int64_t{1}, __ATOMIC_RELAXED);
      if (item >= items) break;
      f(worker, item, &walks[worker]);
      __atomic_fetch_add(&ended, int64_t{1}, __ATOMIC_RELEASE);
    }
    float* const values = args.scratch + worker * args.scratch_floats;
    // A walk that offers nothing for long has lost its core. Whoever waits outside of the region can give it another.
    Patience patience;
    while (__atomic_load_n(&ended, __ATOMIC_ACQUIRE) < items && !patience.is_over()) {
      if (help_a_walk(walks, workers, values)) {
        patience = Patience();
      } else {
        patience.wait();
      }
    }
  });
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
  const int64_t items = args.batch * heads * blocks;
  parallel_walks(stream, args, items, rows * heads * dk * dv * 5, [&](int64_t worker, int64_t item, Walk* own) {
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
    walk_rows(&head, seq, own);
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
