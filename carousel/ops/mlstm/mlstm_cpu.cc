// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell on CPUs. A sequence of one row takes a recurrent step (mlstm_step_cpu.h). A longer one is walked by
// one thread per head, or per block of its value columns, piece by piece (mlstm_walk_cpu.h): chunks are products of
// cached matrices, and C stays packed for them from the first to the last. Walks that share a head repeat its gates, n
// and denominators, so neither division changes a bit.
#include "carousel/ops/mlstm/mlstm_cpu.h"

#include "carousel/ops/mlstm/mlstm_step_cpu.h"
#include "carousel/ops/mlstm/mlstm_walk_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

struct Layout {
  ZeroStates zeros;
  Sequence* sequences;     // [B]
  float *n_next, *m_next;  // [B, H, Dk], [B, H]
  Call call;
};

Layout lay_out(const Stream& stream, const ops::MlstmArgs& args, Workspace& workspace) {
  const int64_t batch = args.seqs.batch, heads = args.dims.heads, dk = args.dims.dk, dv = args.dims.dv;
  const int64_t blocks = (dk - 1) / step_rows(dv) + 1;
  Layout layout;
  layout.zeros = take_zero_states(args, workspace);
  layout.sequences = workspace.take<Sequence>(batch);
  layout.n_next = workspace.take<float>(batch * heads * dk);
  layout.m_next = workspace.take<float>(batch * heads);
  Call& call = layout.call;
  static_cast<ops::MlstmArgs&>(call) = args;
  call.batch = batch;
  call.sequences = layout.sequences;
  call.scratch_floats = chunk_scratch_floats(dk, dv);
  call.scratch = workspace.take<float>(stream.threads() * call.scratch_floats);
  call.steps = workspace.take<StepGates>(batch * heads);
  call.shares = workspace.take<float>(batch * heads * blocks * share_floats(dv));
  return layout;
}

}  // namespace

int64_t mlstm_workspace(const Stream& stream, const ops::MlstmArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void mlstm(const Stream& stream, const ops::MlstmArgs& args) {
  Workspace workspace(args.workspace);
  const Layout layout = lay_out(stream, args, workspace);
  layout.zeros.clear();
  list_sequences(args, layout.zeros.c, layout.zeros.n, layout.zeros.m, layout.n_next, layout.m_next, layout.sequences);
  int64_t active = 0, rows = 0, steps = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    const int64_t count = args.seqs.length(s);
    steps += count == 1 ? 1 : 0;
    active += count > 1 ? 1 : 0;
    rows += count > 1 ? count : 0;
  }
  if (steps > 0) step_all(stream, layout.call, steps);
  if (active > 0) walk_all(stream, layout.call, active, rows);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
