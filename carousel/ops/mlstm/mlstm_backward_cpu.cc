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

/// Begins with the gradients of the states that the forward left, or with zeros. `after` is the state that it left.
void begin(Walk* walk, int64_t s, const float* after) {
  const ops::MlstmBackwardArgs& args = *walk->args;
  const int64_t dk = args.cell.dims.dk, dv = args.cell.dims.dv, h = walk->head.h;
  const Matrices& x = walk->x;
  if (args.d_c == nullptr) {
    std::memset(x.d_state, 0, sizeof(float) * static_cast<size_t>((dv + 1) * x.k_row));
    return;
  }
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

/// One head of sequence s.
void walk_back(const ops::MlstmBackwardArgs& args, const Call& call, int64_t s, int64_t h, float* scratch) {
  const Sequence& seq = call.sequences[s];
  const int64_t heads = call.dims.heads, dv = call.dims.dv;
  int64_t floats = 0;
  Walk walk = {};
  walk.args = &args;
  walk.head.args = &call;
  walk.head.h = h;
  walk.x = matrices_in(scratch, call.dims.dk, dv, &floats);
  const auto read = [&](int64_t t, int64_t count, Rows* rows) {
    const int64_t row = seq.first_row + t;
    read_rows(walk, row, count, t == 0 ? call.kept.m_first[s * heads + h] : call.kept.m[(row - 1) * heads + h], rows);
  };
  Rows rows;
  for (int64_t last = seq.rows, first = 0; last > 0; last = first) {
    first = border_before(seq, last);
    int64_t starts[kStates], pieces = 0;
    for (int64_t t = first; t < last; t += piece(seq, t)) starts[pieces++] = t;
    read_border(walk, seq, first);
    const bool needs_end = last == seq.rows && args.d_c != nullptr;
    for (int64_t i = 0; i + (needs_end ? 0 : 1) < pieces; ++i) {
      read(starts[i], piece(seq, starts[i]), &rows);
      advance_state(walk, rows, walk.x.state(i, dv), walk.x.state(i + 1, dv));
    }
    if (last == seq.rows) begin(&walk, s, walk.x.state(pieces, dv));
    for (int64_t i = pieces - 1; i >= 0; --i) {
      read(starts[i], piece(seq, starts[i]), &rows);
      chunk_backward(&walk, rows, walk.x.state(i, dv));
    }
  }
  if (seq.rows > 0) end(walk, s, walk.x.state(0, dv));
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
  parallel_workers(
      stream, layout.call.batch * heads, rows * heads * dims.dk * dims.dv * 12, [&](int64_t worker, int64_t item) {
        walk_back(args, layout.call, item / heads, item % heads, layout.scratch + worker * layout.scratch_floats);
      });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
