// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/mlstm/mlstm.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::mlstm";

void check_columns(const char* name, View view, int64_t width) {
  if (view.stride < width) {
    fail(ErrorKind::kShape, "{}: {} has row stride {}, expected at least {}", kWhere, name, view.stride, width);
  }
}

struct Scratch {
  Tensor c, n, m;             // [B, H, Dk, Dv], [B, H, Dk], [B, H], zeros; empty where sequences keep theirs
  Tensor n_next, m_next;      // [B, H, Dk], [B, H]
  Tensor threads, sequences;  // [threads, floats], [B] MlstmSequence
  Tensor steps, shares;       // [B, H] MlstmStep, [B, H, blocks, floats]
};

Scratch make_scratch(Ctx& ctx, const MlstmDims& dims, int64_t batch, bool zero_states, int64_t scratch_floats) {
  Arena& arena = ctx.arena;
  Scratch s;
  if (zero_states) {
    s.c = arena.zeros({batch, dims.heads, dims.dk, dims.dv});
    s.n = arena.zeros({batch, dims.heads, dims.dk});
    s.m = arena.zeros({batch, dims.heads});
  }
  s.n_next = arena.empty({batch, dims.heads, dims.dk});
  s.m_next = arena.empty({batch, dims.heads});
  s.threads = arena.empty({ctx.stream.pool->threads(), scratch_floats});
  s.sequences = arena.empty({batch, static_cast<int64_t>(sizeof(MlstmSequence))}, DType::kU8);
  s.steps = arena.empty({batch, dims.heads, static_cast<int64_t>(sizeof(MlstmStep))}, DType::kU8);
  const int64_t blocks = (dims.dk - 1) / mlstm_step_rows(dims.dv) + 1;
  s.shares = arena.empty({batch, dims.heads, blocks, mlstm_share_floats(dims.dv)});
  return s;
}

/// Both gates soft-capped in the profile's type [N, 2H].
Tensor capped_gates(Ctx& ctx, View i_pre, View f_pre, const MlstmDims& dims, int64_t rows) {
  const int64_t heads = dims.heads;
  const Tensor gates = ctx.arena.empty({rows, 2 * heads});
  for (int64_t n = 0; n < rows; ++n) {
    std::copy_n(i_pre.data + n * i_pre.stride, heads, gates.f32() + n * 2 * heads);
    std::copy_n(f_pre.data + n * f_pre.stride, heads, gates.f32() + (n * 2 + 1) * heads);
  }
  soft_cap(ctx, gates, dims.gate_soft_cap, ctx.numerics.gate_soft_cap);
  return gates;
}

}  // namespace

Tensor mlstm(Ctx& ctx, View q, View k, View v, View i_pre, View f_pre, const MlstmDims& model_dims, const Seqs& seqs,
             LayerStates states) {
  MlstmDims dims = model_dims;
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

  const Numerics& numerics = ctx.numerics;
  Tensor capped;
  if (numerics.gate_soft_cap != DType::kF32 && dims.gate_soft_cap > 0) {
    capped = capped_gates(ctx, i_pre, f_pre, dims, rows);
    i_pre = columns(capped, 0);
    f_pre = columns(capped, heads);
    dims.gate_soft_cap = 0;
  }
  const bool casts = numerics.mlstm.pieces != Numerics::Pieces::kGrid;
  const int64_t scratch_floats = casts ? cast_mlstm_scratch_floats(dims, rows) : mlstm_scratch_floats(dims.dk, dims.dv);
  const Scratch scratch = make_scratch(ctx, dims, batch, states.empty(), scratch_floats);
  auto* sequences = static_cast<MlstmSequence*>(scratch.sequences.raw());
  for (int64_t s = 0; s < batch; ++s) {
    MlstmSequence& seq = sequences[s];
    seq.first_row = seqs.offsets[static_cast<size_t>(s)];
    seq.rows = seqs.length(s);
    seq.pos = seqs.pos[static_cast<size_t>(s)];
    seq.c = states.empty() ? scratch.c.f32() + s * heads * dims.dk * dims.dv : states.fixed(0)[s];
    seq.n = states.empty() ? scratch.n.f32() + s * heads * dims.dk : states.fixed(1)[s];
    seq.m = states.empty() ? scratch.m.f32() + s * heads : states.fixed(2)[s];
    seq.n_next = scratch.n_next.f32() + s * heads * dims.dk;
    seq.m_next = scratch.m_next.f32() + s * heads;
  }
  const bool eps_in_max = numerics.mlstm.eps_in_max;
  const MlstmArgs args = {q,
                          k,
                          v,
                          i_pre,
                          f_pre,
                          out.f32(),
                          dims,
                          sequences,
                          batch,
                          scratch.threads.f32(),
                          scratch.threads.dim(1),
                          static_cast<MlstmStep*>(scratch.steps.raw()),
                          scratch.shares.f32(),
                          eps_in_max ? dims.eps : 0.0f,
                          eps_in_max ? 0.0f : dims.eps};
  if (!casts) {
    kernels::mlstm(ctx.stream, args);
    return rounded(ctx, out);
  }
  kernels::cast_mlstm(ctx.stream, {args, numerics.mlstm.pieces == Numerics::Pieces::kCall, numerics.activations,
                                   numerics.states, numerics.gates});
  return out;
}

}  // namespace carousel::ops
