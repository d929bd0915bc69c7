// SPDX-License-Identifier: Apache-2.0
// The backward of the mLSTM cell on CPUs. One thread takes a head of a sequence through its pieces of the chunk grid
// from the last to the first (mlstm_backward_chunk_cpu.h). From border to border it makes the states before the pieces
// again, in the order of the rows, from the state that the forward kept. A piece of one row is a chunk of one row.
#include "carousel/cpu/divide.h"
#include "carousel/ops/mlstm/mlstm_backward_chunk_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

struct Layout {
  Sequence* sequences;  // [B]
  Call call;
  float* scratch;  // [threads, scratch_floats]
  int64_t scratch_floats;
};

Layout lay_out(const Stream& stream, const ops::MlstmBackwardArgs& args, Workspace& workspace) {
  Layout layout = {};
  layout.sequences = workspace.take<Sequence>(args.cell.seqs.batch);
  static_cast<ops::MlstmArgs&>(layout.call) = args.cell;
  layout.call.batch = args.cell.seqs.batch;
  layout.call.sequences = layout.sequences;
  matrices_in(nullptr, args.cell.dims.dk, args.cell.dims.dv, &layout.scratch_floats);
  layout.scratch = workspace.take<float>(stream.threads() * layout.scratch_floats);
  return layout;
}

/// The first row of the sequence's rows that share a border with the row before `end`.
int64_t border_before(const Sequence& seq, int64_t end) {
  const int64_t first = (seq.pos + end - 1) / ops::kMlstmBorder * ops::kMlstmBorder - seq.pos;
  return first > 0 ? first : 0;
}

/// Reads the state that the forward kept before row t.
void read_border(const Walk& walk, const Sequence& seq, int64_t t) {
  const Call& call = *walk.head.args;
  const int64_t dk = call.dims.dk, dv = call.dims.dv, border = border_of(call, seq, walk.head.h, t);
  float* const state = walk.x.state(0, dv);
  transpose_matrix<true>(call.kept.c + border * dk * dv, dv, dk, dv, state, walk.x.k_row);
  copy_to_padded(call.kept.n + border * dk, set1(1.0f), dk, state + dv * walk.x.k_row);
}

/// Begins with the gradients of the states that the forward left, if there are any. `after` is the state that it left.
void begin(Walk* walk, int64_t s, const float* after) {
  const ops::MlstmBackwardArgs& args = *walk->args;
  const int64_t dk = args.cell.dims.dk, dv = args.cell.dims.dv, h = walk->head.h;
  const Matrices& x = walk->x;
  if (args.d_c == nullptr) return;
  walk->has_d_state = true;
  transpose_matrix<true>(args.d_c[s] + h * dk * dv, dv, dk, dv, x.d_state, x.k_row);
  copy_to_padded(args.d_n[s] + h * dk, set1(1.0f), dk, x.d_state + dv * x.k_row);
  walk->d_m = args.d_m[s][h] - state_dot(after, x.d_state, x.k_row, args.cell.dims);
}

/// Writes the gradients of the states that the forward read. `before` is the state that it read.
void end(const Walk& walk, int64_t s, const float* before) {
  const ops::MlstmBackwardArgs& args = *walk.args;
  const int64_t dk = args.cell.dims.dk, dv = args.cell.dims.dv, h = walk.head.h;
  const Matrices& x = walk.x;
  if (args.d_c == nullptr) return;
  transpose_matrix<false>(x.d_state, x.k_row, dv, dk, args.d_c[s] + h * dk * dv, dv);
  copy_from_padded(x.d_state + dv * x.k_row, set1(1.0f), dk, args.d_n[s] + h * dk);
  args.d_m[s][h] = walk.d_m + state_dot(before, x.d_state, x.k_row, args.cell.dims);
}

/// One visit of a piece: its gradients, or only the state after it.
struct Visit {
  int64_t i;         // number of the piece since the border
  int64_t t, count;  // its rows
  bool backward;
};

/// The visits of rows [first, last), which begin at a border. needs_end: the state after the last row is made too.
int64_t list_visits(const Sequence& seq, int64_t first, int64_t last, bool needs_end, Visit* visits) {
  int64_t pieces = 0, count = 0;
  for (int64_t t = first; t < last; t += piece(seq, t), ++pieces) {
    if (needs_end || t + piece(seq, t) < last) visits[count++] = {pieces, t, piece(seq, t), false};
  }
  for (int64_t i = pieces - 1, t = last; i >= 0; --i) {
    t = i == 0 ? first : (seq.pos + t - 1) / kL * kL - seq.pos;
    visits[count++] = {i, t, piece(seq, t), true};
  }
  return count;
}

/// What the visit after visits[v] reads, prefetched while that one runs; `first` is the first row since the border.
Ahead ahead_of(const Walk& walk, const Sequence& seq, const Visit* visits, int64_t v, int64_t count, int64_t first) {
  Visit next = {};
  if (v + 1 < count) {
    next = visits[v + 1];
  } else if (first > 0) {
    next.t = border_before(seq, first);
    next.count = piece(seq, next.t);
    next.backward = next.t + next.count == first;
  }
  Ahead ahead = rows_ahead(walk, seq.first_row + next.t, next.count, next.backward);
  spread(&ahead, walk.args->cell.dims, visits[v].backward);
  return ahead;
}

/// One head of sequence s.
void walk_back(Walk* walk, const Sequence& seq, int64_t s) {
  constexpr int64_t kVisits = 2 * kStates;
  const Call& call = *walk->head.args;
  const int64_t heads = call.dims.heads, dv = call.dims.dv, h = walk->head.h;
  for (int64_t last = seq.rows, first = 0; last > 0; last = first) {
    first = border_before(seq, last);
    Visit visits[kVisits];
    bool begun = last < seq.rows;
    const int64_t count = list_visits(seq, first, last, !begun && walk->args->d_c != nullptr, visits);
    read_border(*walk, seq, first);
    if (!begun) rows_ahead(*walk, seq.first_row + first, visits[0].count, visits[0].backward).read.fetch_all();
    for (int64_t v = 0; v < count; ++v) {
      const Visit& visit = visits[v];
      const int64_t row = seq.first_row + visit.t, before = row - 1;
      Ahead ahead = ahead_of(*walk, seq, visits, v, count, first);
      Rows rows;
      read_rows(*walk, row, visit.count,
                visit.t == 0 ? call.kept.m_first[s * heads + h] : call.kept.m[before * heads + h], &rows);
      if (!visit.backward) {
        advance_state(*walk, rows, walk->x.state(visit.i, dv), walk->x.state(visit.i + 1, dv), &ahead);
        continue;
      }
      if (!begun) begin(walk, s, walk->x.state(visit.i + 1, dv));
      begun = true;
      chunk_backward(walk, rows, walk->x.state(visit.i, dv), visit.t > 0 || walk->args->d_c != nullptr, &ahead);
    }
  }
  if (seq.rows > 0) end(*walk, s, walk->x.state(0, dv));
}

}  // namespace

int64_t mlstm_backward_workspace(const Stream& stream, const ops::MlstmBackwardArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void mlstm_backward(const Stream& stream, const ops::MlstmBackwardArgs& args) {
  Workspace workspace(args.workspace);
  const Layout layout = lay_out(stream, args, workspace);
  list_rows(args.cell, layout.sequences);
  const ops::MlstmDims& dims = args.cell.dims;
  const int64_t heads = dims.heads, rows = args.cell.seqs.rows();
  parallel_workers(stream, layout.call.batch * heads, rows * heads * dims.dk * dims.dv * 12,
                   [&](int64_t worker, int64_t item) {
                     int64_t floats = 0;
                     Walk walk = {};
                     walk.args = &args;
                     walk.head.args = &layout.call;
                     walk.head.h = item % heads;
                     walk.x = matrices_in(layout.scratch + worker * layout.scratch_floats, dims.dk, dims.dv, &floats);
                     walk_back(&walk, layout.sequences[item / heads], item / heads);
                   });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
