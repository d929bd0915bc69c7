// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/mlstm.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::mlstm";

void check_columns(const char* name, View view, int64_t width) {
  if (view.stride < width) {
    fail(ErrorKind::kShape, "{}: {} has row stride {}, expected at least {}", kWhere, name, view.stride, width);
  }
}

/// Zero states for the sequences of a batch that keeps none.
struct Scratch {
  Tensor c, n, m;             // [B, H, Dk, Dv], [B, H, Dk], [B, H], or empty
  Tensor n_next, m_next;      // [B, H, Dk], [B, H]
  Tensor threads, sequences;  // [threads, floats], [B] MlstmSequence
};

Scratch make_scratch(Ctx& ctx, const MlstmDims& dims, int64_t batch, bool zero_states) {
  Arena& arena = ctx.arena;
  Scratch s;
  if (zero_states) {
    s.c = arena.zeros({batch, dims.heads, dims.dk, dims.dv});
    s.n = arena.zeros({batch, dims.heads, dims.dk});
    s.m = arena.zeros({batch, dims.heads});
  }
  s.n_next = arena.empty({batch, dims.heads, dims.dk});
  s.m_next = arena.empty({batch, dims.heads});
  s.threads = arena.empty({ctx.stream.pool->threads(), mlstm_scratch_floats(dims.dk, dims.dv)});
  s.sequences = arena.empty({batch, static_cast<int64_t>(sizeof(MlstmSequence))}, DType::kU8);
  return s;
}

}  // namespace

Tensor mlstm(Ctx& ctx, View q, View k, View v, View i_pre, View f_pre, const MlstmDims& dims, const Seqs& seqs,
             LayerStates states) {
  const int64_t rows = seqs.rows(), batch = seqs.batch(), heads = dims.heads;
  if (heads < 1 || dims.dk < 1 || dims.dv < 1) {
    fail(ErrorKind::kShape, "{}: heads {}, dk {}, dv {}, expected at least 1 each", kWhere, heads, dims.dk, dims.dv);
  }
  Tensor out = ctx.arena.empty({rows, heads * dims.dv});
  if (rows == 0) return out;
  check_columns("q", q, heads * dims.dk);
  check_columns("k", k, heads * dims.dk);
  check_columns("v", v, heads * dims.dv);
  check_columns("i_pre", i_pre, heads);
  check_columns("f_pre", f_pre, heads);

  const Scratch scratch = make_scratch(ctx, dims, batch, states.empty());
  auto* sequences = static_cast<MlstmSequence*>(scratch.sequences.raw());
  for (int64_t s = 0; s < batch; ++s) {
    MlstmSequence& seq = sequences[s];
    seq.first_row = seqs.offsets[static_cast<size_t>(s)];
    seq.rows = seqs.length(s);
    seq.pos = seqs.pos[static_cast<size_t>(s)];
    seq.c = states.empty() ? scratch.c.f32() + s * heads * dims.dk * dims.dv : states.fixed(s, 0);
    seq.n = states.empty() ? scratch.n.f32() + s * heads * dims.dk : states.fixed(s, 1);
    seq.m = states.empty() ? scratch.m.f32() + s * heads : states.fixed(s, 2);
    seq.n_next = scratch.n_next.f32() + s * heads * dims.dk;
    seq.m_next = scratch.m_next.f32() + s * heads;
  }
  kernels::mlstm(ctx.stream, {q, k, v, i_pre, f_pre, out.f32(), dims, sequences, batch, scratch.threads.f32(),
                              scratch.threads.dim(1)});
  return out;
}

}  // namespace carousel::ops
