// SPDX-License-Identifier: Apache-2.0
// The sLSTM cell: checks, the packing of the recurrent matrices, and the call of the kernel.
#include "carousel/ops/slstm/slstm.h"

#include <array>

#include "carousel/core/error.h"
#include "carousel/ops/packing.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/slstm/slstm_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::slstm";

/// What a forward keeps for its backward.
struct Kept {
  Tensor raw;                    // [N, 4*D] the sums of the gates
  std::array<Tensor, 4> states;  // [B, D] each: y c n m before the forward, or empty
};

/// A forward that ran, as its backward needs it.
struct Recurrence {
  Tensor wx;
  SlstmRecurrent recurrent;
  Seqs seqs;
  LayerStates states;
  size_t first;
  Kept kept;
};

void slstm_backward(Ctx& ctx, const Recurrence& forward, const Tensor& d, Grads& grads) {
  const SlstmDims& dims = forward.recurrent.dims();
  const LayerStates d_states = grads.states(forward.states);
  const auto table = [&](size_t spec) { return d_states.empty() ? nullptr : d_states.fixed(forward.first + spec); };
  const auto before = [&](size_t i) {
    const Tensor& state = forward.kept.states[i];
    return state.defined() ? view(state) : View();
  };
  // Nobody may want the gradient of wx; that of the matrices is made from it.
  const Columns d_wx =
      grads.wants(forward.wx) ? grads.write(ctx, columns(forward.wx)) : columns(ctx.arena.empty(forward.wx.shape()));
  SlstmBackwardArgs args = {view(forward.kept.raw),
                            view(forward.recurrent.panels()).f32(),
                            dims,
                            forward.seqs.view(),
                            before(0),
                            before(1),
                            before(2),
                            before(3),
                            view(d),
                            view(d_wx),
                            grads.parameter(forward.recurrent.master()),
                            table(0),
                            table(1),
                            table(2),
                            table(3),
                            nullptr};
  const Tensor workspace = ctx.workspace(kernels::slstm_backward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::slstm_backward(ctx.stream, args);
}

}  // namespace

SlstmRecurrent::SlstmRecurrent(const Tensor& recurrent, const SlstmDims& dims) : dims_(dims), recurrent_(recurrent) {
  const int64_t heads = dims.heads, dh = dims.dh;
  if (heads < 1 || dh < 1) {
    fail(ErrorKind::kShape, "{}: heads {}, dh {}, expected at least 1 each", kWhere, heads, dh);
  }
  check_shape(kWhere, "recurrent", recurrent, {heads, dh, 4 * dh});
  check_dtype(kWhere, "recurrent", recurrent, DType::kF32);
  panels_ = Tensor(Shape{heads, slstm_panels(dims), 2, dh, kSlstmPiece}, DType::kF32, recurrent.memory());
}

void SlstmRecurrent::pack(const Stream& /*stream*/) const {
  if (panels_.raw() == nullptr) return;
  const int64_t heads = dims_.heads, dh = dims_.dh, panels = slstm_panels(dims_);
  const Tensor recurrent = recurrent_.to_host();
  const Packing packed(panels_);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t k = 0; k < dh; ++k) {
      const float* row = recurrent.f32() + (h * dh + k) * 4 * dh;  // [4*dh]
      for (int64_t j = 0; j < 4 * dh; ++j) {
        const int64_t gate = j / dh, out = j % dh;
        float* panel = packed.f32() + (h * panels + out / kSlstmElements) * dh * kSlstmPanel;
        panel[(gate / 2 * dh + k) * kSlstmPiece + gate % 2 * kSlstmElements + out % kSlstmElements] = row[j];
      }
    }
  }
  packed.finish();
}

Tensor slstm(Ctx& ctx, const Tensor& wx, const SlstmRecurrent& recurrent, const Seqs& seqs, LayerStates states,
             size_t first) {
  const SlstmDims& dims = recurrent.dims();
  const int64_t rows = seqs.rows(), width = dims.heads * dims.dh;
  check_shape(kWhere, "wx", wx, {rows, 4 * width});
  check_dtype(kWhere, "wx", wx, DType::kF32);
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0) return out;

  const auto table = [&](size_t spec) { return states.empty() ? nullptr : states.fixed(first + spec); };
  SlstmArgs args = {view(wx),    view(recurrent.panels()).f32(),
                    view(out),   dims,
                    seqs.view(), table(0),
                    table(1),    table(2),
                    table(3),    nullptr,
                    nullptr};
  Kept kept;
  if (ctx.tape != nullptr && (ctx.tape->needs(wx) || ctx.tape->needs(recurrent.master()))) {
    kept.raw = ctx.arena.empty({rows, 4 * width});
    args.raw = kept.raw.f32();
    for (size_t i = 0; i < kept.states.size(); ++i) kept.states[i] = keep_state(ctx, seqs, states, first + i, width);
  }
  const Tensor workspace = ctx.workspace(kernels::slstm_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::slstm(ctx.stream, args);
  if (kept.raw.defined()) {
    const Recurrence forward = {wx, recurrent, seqs, states, first, kept};
    const auto backward = [forward](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      slstm_backward(inner, forward, d[0], grads);
    };
    ctx.tape->record(ctx, kWhere, {wx, recurrent.master()}, {out}, backward, states);
  }
  return rounded(ctx, out);
}

}  // namespace carousel::ops
