// SPDX-License-Identifier: Apache-2.0
// Shared by both forms of the mLSTM cell: a call's sequences and scratch memory, a head, its gates and its denominator.
#pragma once

#include "carousel/cpu/matmul.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/mlstm/mlstm_formulas.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kL = ops::kMlstmChunk;
// Rows of a tile. With AVX-512 eight keep the multipliers busy, and divide a chunk and most heads.
constexpr int kRows = kLanes == 16 ? 8 : kTileRows;

/// One sequence of the batch, and where its memory is: the caller's, or zeros in the workspace.
struct Sequence {
  int64_t first_row, rows;
  int64_t pos;           // position of the first row
  int64_t first_border;  // number of its first border among those of all sequences
  float* c;              // [H, Dk, Dv]
  float* n;              // [H, Dk]
  float* m;              // [H]
  float* n_next;  // [H, Dk]; where several items share a head, its new n is kept here until all have read the old one
  float* m_next;  // [H]; the same for m
};

/// The step of one head of a sequence of one row.
struct StepGates {
  float f, i;           // activations of the gates
  int32_t blocks_done;  // blocks of rows of C that threads have advanced
};

/// Rows of C that one task of a step advances, about 128 KiB: with one equal task per thread all would wait for the
/// slowest thread. The number of tasks depends on the shape alone, since each has its own share of h.
constexpr int64_t step_rows(int64_t dv) {
  constexpr int64_t kFloats = int64_t{1} << 15;
  return dv >= kFloats / 4 ? 4 : kFloats / dv / 4 * 4;
}
constexpr int64_t share_floats(int64_t dv) { return (dv / 16 + 1) * 16; }

/// The arguments, and what is laid out in their workspace.
struct Call : ops::MlstmArgs {
  int64_t batch;
  const Sequence* sequences;  // [B]
  float* scratch;             // [threads, scratch_floats]
  int64_t scratch_floats;     // multiple of 16
  StepGates* steps;           // [B, H]
  float* shares;              // [B, H, blocks of step_rows rows of C, share_floats]: of h; the last is of q.n
};

/// Rows from `t` to the end of the sequence's rows or to the next multiple of kL, whichever comes first.
inline int64_t piece(const Sequence& seq, int64_t t) {
  const int64_t to_grid = kL - (seq.pos + t) % kL, rest = seq.rows - t;
  return to_grid < rest ? to_grid : rest;
}

/// Lists the sequences' rows in `sequences` [B]; their states are null.
inline void list_rows(const ops::MlstmArgs& args, Sequence* sequences) {
  int64_t borders = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    const int64_t rows = args.seqs.length(s), pos = args.seqs.pos[s];
    sequences[s] = {};
    sequences[s].first_row = args.seqs.first_row(s);
    sequences[s].rows = rows;
    sequences[s].pos = pos;
    sequences[s].first_border = borders;
    borders += ops::mlstm_borders(pos, rows);
  }
}

/// Lists the sequences in `sequences` [B]. Where the caller keeps no state, they get the zeros c, n and m.
inline void list_sequences(const ops::MlstmArgs& args, float* c, float* n, float* m, float* n_next, float* m_next,
                           Sequence* sequences) {
  const int64_t heads = args.dims.heads, of_n = heads * args.dims.dk, of_c = of_n * args.dims.dv;
  list_rows(args, sequences);
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    const bool kept = args.c != nullptr;
    sequences[s].c = kept ? args.c[s] : c + s * of_c;
    sequences[s].n = kept ? args.n[s] : n + s * of_n;
    sequences[s].m = kept ? args.m[s] : m + s * heads;
    sequences[s].n_next = n_next == nullptr ? nullptr : n_next + s * of_n;
    sequences[s].m_next = m_next == nullptr ? nullptr : m_next + s * heads;
  }
}

/// Zeros for the states of a batch that keeps none.
struct ZeroStates {
  float *c, *n, *m;  // [B, H, Dk, Dv], [B, H, Dk], [B, H]; null where the caller keeps them
  int64_t c_floats, n_floats, m_floats;

  void clear() const {
    float* const parts[] = {c, n, m};
    const int64_t floats[] = {c_floats, n_floats, m_floats};
    for (int i = 0; i < 3; ++i) {
      if (parts[i] != nullptr) std::memset(parts[i], 0, sizeof(float) * static_cast<size_t>(floats[i]));
    }
  }
};
inline ZeroStates take_zero_states(const ops::MlstmArgs& args, Workspace& workspace) {
  ZeroStates zeros = {};
  if (args.c != nullptr) return zeros;
  zeros.m_floats = args.seqs.batch * args.dims.heads;
  zeros.n_floats = zeros.m_floats * args.dims.dk;
  zeros.c_floats = zeros.n_floats * args.dims.dv;
  zeros.c = workspace.take<float>(zeros.c_floats);
  zeros.n = workspace.take<float>(zeros.n_floats);
  zeros.m = workspace.take<float>(zeros.m_floats);
  return zeros;
}

/// A head of a sequence, or a block of its value columns, as one item of the walk or one task of the step.
struct Head {
  const Call* args;
  int64_t h;
  int64_t first_column, width;  // block of value columns
  float* c;                     // [Dk, Dv] of this head, at first_column
  float* n;                     // [Dk]
  float m;
  float* scratch;
};

/// Soft-caps the first `count` values of both gates, then replaces f by log sigmoid(f). Works in whole vectors: the
/// arrays have room for them.
inline void activate_gates(float* i, float* f, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += kLanes) {
    store(i + j, ops::mlstm_capped<VecMath>(load(i + j), cap));
    store(f + j, log_sigmoid<VecMath>(ops::mlstm_capped<VecMath>(load(f + j), cap)));
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
  return ops::mlstm_denominator(args, q_dot_n, std::exp(-m));
}

/// Keeps m and q.n of a row. Where column blocks share a head, the first one does.
inline void keep_row(const Head& head, int64_t row, float q_dot_n, float m) {
  const ops::MlstmKept& kept = head.args->kept;
  if (kept.m == nullptr || head.first_column > 0) return;
  kept.m[row * head.args->dims.heads + head.h] = m;
  kept.q_dot_n[row * head.args->dims.heads + head.h] = q_dot_n;
}

/// The border at row t, counted over all sequences and heads: its C and n are kept there. -1: row t is no border.
inline int64_t border_of(const Call& call, const Sequence& seq, int64_t h, int64_t t) {
  if (t != 0 && (seq.pos + t) % ops::kMlstmBorder != 0) return -1;
  const int64_t of_sequence = (seq.pos + t) / ops::kMlstmBorder - seq.pos / ops::kMlstmBorder;
  return (seq.first_border + of_sequence) * call.dims.heads + h;
}

/// Keeps n, and m before the first row, where row t is a border. Returns where C [Dk, Dv] is to be kept from the head's
/// first column on; null: nowhere.
inline float* keep_border(const Head& head, const Sequence& seq, int64_t t) {
  const Call& call = *head.args;
  const int64_t dk = call.dims.dk, dv = call.dims.dv;
  const int64_t border = call.kept.c != nullptr ? border_of(call, seq, head.h, t) : -1;
  if (border < 0) return nullptr;
  if (head.first_column == 0) {
    std::memcpy(call.kept.n + border * dk, head.n, sizeof(float) * static_cast<size_t>(dk));
    if (t == 0) call.kept.m_first[(&seq - call.sequences) * call.dims.heads + head.h] = head.m;
  }
  return call.kept.c + border * dk * dv + head.first_column;
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
