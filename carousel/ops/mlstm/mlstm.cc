// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell: checks, what a numeric profile changes, and the call of the kernel.
#include "carousel/ops/mlstm/mlstm.h"

#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/mlstm/mlstm_cpu.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/rows/rows.h"

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

void check(const MlstmInputs& inputs, const MlstmDims& dims, int64_t rows) {
  if (dims.heads < 1 || dims.dk < 1 || dims.dv < 1) {
    fail(ErrorKind::kShape, "{}: heads {}, dk {}, dv {}, expected at least 1 each", kWhere, dims.heads, dims.dk,
         dims.dv);
  }
  check_columns(kWhere, "q", inputs.q, rows, dims.heads * dims.dk);
  check_columns(kWhere, "k", inputs.k, rows, dims.heads * dims.dk);
  check_columns(kWhere, "v", inputs.v, rows, dims.heads * dims.dv);
  check_columns(kWhere, "i_pre", inputs.i_pre, rows, dims.heads);
  check_columns(kWhere, "f_pre", inputs.f_pre, rows, dims.heads);
}

}  // namespace

Tensor mlstm(Ctx& ctx, const MlstmInputs& model_inputs, const MlstmDims& model_dims, const Seqs& seqs,
             LayerStates states) {
  ctx.without_backward("ops::mlstm");
  MlstmInputs inputs = model_inputs;
  MlstmDims dims = model_dims;
  const int64_t rows = seqs.rows();
  check(inputs, dims, rows);
  Tensor out = ctx.arena.empty({rows, dims.heads * dims.dv});
  if (rows == 0) return out;

  const Numerics& numerics = ctx.numerics;
  if (numerics.gate_soft_cap != DType::kF32 && dims.gate_soft_cap > 0) {
    const Tensor capped = capped_gates(ctx, inputs, dims, rows);
    inputs.i_pre = columns(capped, 0, dims.heads);
    inputs.f_pre = columns(capped, dims.heads, dims.heads);
    dims.gate_soft_cap = 0;
  }
  const bool keeps = !states.empty(), eps_in_max = numerics.mlstm.eps_in_max;
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
                    nullptr};
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
