// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell: checks, what a numeric profile changes, the calls of the kernels, and what is kept for the backward.
#include "carousel/ops/mlstm/mlstm.h"

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/kernel.h"
#include "carousel/ops/mlstm/mlstm_cpu.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/rows/rows.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::mlstm";

/// Both gates soft-capped in the profile's type [N, 2H].
Tensor capped_gates(Ctx& ctx, const MlstmInputs& inputs, const MlstmDims& dims, int64_t rows) {
  const Tensor gates = ctx.arena.empty({rows, 2 * dims.heads});
  copy_columns(ctx, inputs.i_pre, columns(gates, 0, dims.heads));
  copy_columns(ctx, inputs.f_pre, columns(gates, dims.heads, dims.heads));
  soft_cap(ctx, gates, dims.gate_soft_cap, ctx.numerics.gate_soft_cap);
  return gates;
}

/// The type of q, k and v. Kernels of the host read f32, and so do gradients and profiles.
DType type_of(const Ctx& ctx, const MlstmInputs& inputs) {
  const bool plain = ctx.tape == nullptr && ctx.numerics.mlstm.pieces == Numerics::Pieces::kGrid;
  const bool narrow = inputs.q.defined() && inputs.q.of.dtype() == DType::kBF16;
  return narrow && plain && kernel_traits(*ctx.stream.memory).narrow_cells ? DType::kBF16 : DType::kF32;
}

/// Columns of q, k or v.
void check_values(const char* name, const Columns& values, int64_t rows, int64_t width, DType dtype) {
  if (dtype == DType::kF32) return check_columns(kWhere, name, values, rows, width);
  check_dtype(kWhere, name, values.of, dtype);
  if (values.rows() == rows && values.count == width) return;
  fail(ErrorKind::kShape, "{}: {} is [{}, {}], expected [{}, {}]", kWhere, name, values.rows(), values.count, rows,
       width);
}

void check(const MlstmInputs& inputs, const MlstmDims& dims, int64_t rows, DType dtype) {
  if (dims.heads < 1 || dims.dk < 1 || dims.dv < 1) {
    fail(ErrorKind::kShape, "{}: heads {}, dk {}, dv {}, expected at least 1 each", kWhere, dims.heads, dims.dk,
         dims.dv);
  }
  check_values("q", inputs.q, rows, dims.heads * dims.dk, dtype);
  check_values("k", inputs.k, rows, dims.heads * dims.dk, dtype);
  check_values("v", inputs.v, rows, dims.heads * dims.dv, dtype);
  check_columns(kWhere, "i_pre", inputs.i_pre, rows, dims.heads);
  check_columns(kWhere, "f_pre", inputs.f_pre, rows, dims.heads);
}

/// What a forward keeps under a tape, besides its inputs; undefined tensors without one.
struct Kept {
  Tensor c, n;        // [borders, H, Dk, Dv], [borders, H, Dk]
  Tensor m_first;     // [B, H]
  Tensor m, q_dot_n;  // [N, H] x 2

  MlstmKept pointers() const {
    const auto floats = [](const Tensor& tensor) { return static_cast<float*>(tensor.raw()); };
    return {floats(c), floats(n), floats(m_first), floats(m), floats(q_dot_n)};
  }
};

Kept keep(Ctx& ctx, const MlstmInputs& inputs, const MlstmDims& dims, const Seqs& seqs) {
  if (ctx.tape == nullptr) return {};
  bool needed = false;
  for (const Columns* input : {&inputs.q, &inputs.k, &inputs.v, &inputs.i_pre, &inputs.f_pre}) {
    needed = needed || ctx.tape->needs(input->of);
  }
  if (!needed) return {};
  int64_t borders = 0;
  for (int64_t s = 0; s < seqs.batch(); ++s) borders += mlstm_borders(seqs.pos[static_cast<size_t>(s)], seqs.length(s));
  return {ctx.arena.empty({borders, dims.heads, dims.dk, dims.dv}), ctx.arena.empty({borders, dims.heads, dims.dk}),
          ctx.arena.empty({seqs.batch(), dims.heads}), ctx.arena.empty({seqs.rows(), dims.heads}),
          ctx.arena.empty({seqs.rows(), dims.heads})};
}

/// A call to be run backwards.
struct Recorded {
  MlstmInputs inputs;
  MlstmDims dims;
  Seqs seqs;
  LayerStates states;
  Kept kept;

  void backward(Ctx& ctx, const Tensor& d_out, Grads& grads) const;
};

void Recorded::backward(Ctx& ctx, const Tensor& d_out, Grads& grads) const {
  const auto to = [&](const Columns& input) { return grads.wants(input.of) ? view(grads.write(ctx, input)) : View{}; };
  MlstmBackwardArgs args = {};
  args.cell.q = view(inputs.q);
  args.cell.k = view(inputs.k);
  args.cell.v = view(inputs.v);
  args.cell.i_pre = view(inputs.i_pre);
  args.cell.f_pre = view(inputs.f_pre);
  args.cell.dims = dims;
  args.cell.seqs = seqs.view();
  args.cell.eps_outside = dims.eps;
  args.cell.kept = kept.pointers();
  args.d_out = view(d_out);
  args.d_q = to(inputs.q);
  args.d_k = to(inputs.k);
  args.d_v = to(inputs.v);
  args.d_i_pre = to(inputs.i_pre);
  args.d_f_pre = to(inputs.f_pre);
  if (const LayerStates d_states = grads.states(states); !d_states.empty()) {
    args.d_c = d_states.fixed(0);
    args.d_n = d_states.fixed(1);
    args.d_m = d_states.fixed(2);
  }
  const Tensor workspace = ctx.workspace(kernels::mlstm_backward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::mlstm_backward(ctx.stream, args);
}

void record(Ctx& ctx, const Recorded& recorded, const Tensor& out) {
  const MlstmInputs& inputs = recorded.inputs;
  ctx.tape->record(
      ctx, kWhere, {inputs.q.of, inputs.k.of, inputs.v.of, inputs.i_pre.of, inputs.f_pre.of}, {out},
      [recorded](Ctx& inner, std::span<const Tensor> d, Grads& grads) { recorded.backward(inner, d[0], grads); },
      recorded.states);
}

}  // namespace

Tensor mlstm(Ctx& ctx, const MlstmInputs& model_inputs, const MlstmDims& model_dims, const Seqs& seqs,
             LayerStates states) {
  MlstmInputs inputs = model_inputs;
  MlstmDims dims = model_dims;
  const int64_t rows = seqs.rows();
  const DType dtype = type_of(ctx, inputs);
  check(inputs, dims, rows, dtype);
  Tensor out = ctx.arena.empty({rows, dims.heads * dims.dv}, dtype);
  if (rows == 0) return out;

  const Numerics& numerics = ctx.numerics;
  if (numerics.gate_soft_cap != DType::kF32 && dims.gate_soft_cap > 0) {
    const Tensor capped = capped_gates(ctx, inputs, dims, rows);
    inputs.i_pre = columns(capped, 0, dims.heads);
    inputs.f_pre = columns(capped, dims.heads, dims.heads);
    dims.gate_soft_cap = 0;
  }
  const bool keeps = !states.empty(), eps_in_max = numerics.mlstm.eps_in_max;
  const Kept kept = keep(ctx, inputs, dims, seqs);
  if (ctx.tape != nullptr) record(ctx, {inputs, dims, seqs, states, kept}, out);
  MlstmArgs args = {view(inputs.q),
                    view(inputs.k),
                    view(inputs.v),
                    view(inputs.i_pre),
                    view(inputs.f_pre),
                    view(out),
                    dims,
                    seqs.view(),
                    keeps ? states.fixed(0) : nullptr,
                    keeps ? states.fixed(1) : nullptr,
                    keeps ? states.fixed(2) : nullptr,
                    eps_in_max ? dims.eps : 0.0f,
                    eps_in_max ? 0.0f : dims.eps,
                    nullptr,
                    kept.pointers()};
  if (numerics.mlstm.pieces == Numerics::Pieces::kGrid) {
    const Tensor workspace = ctx.workspace(kernels::mlstm_workspace(ctx.stream, args));
    args.workspace = workspace.raw();
    kernels::mlstm(ctx.stream, args);
    return rounded(ctx, out);
  }
  CastMlstmArgs cast = {args, numerics.mlstm.pieces == Numerics::Pieces::kCall, numerics.activations, numerics.states,
                        numerics.gates};
  const Tensor workspace = ctx.workspace(kernels::cast_mlstm_workspace(ctx.stream, cast));
  cast.cell.workspace = workspace.raw();
  kernels::cast_mlstm(ctx.stream, cast);
  return out;
}

}  // namespace carousel::ops
