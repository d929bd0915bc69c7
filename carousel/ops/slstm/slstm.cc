// SPDX-License-Identifier: Apache-2.0
// The sLSTM cell: checks, the packing of the recurrent matrices, and the call of the kernel.
#include "carousel/ops/slstm/slstm.h"

#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/slstm/slstm_cpu.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::slstm";

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
  const int64_t heads = dims_.heads, dh = dims_.dh, panels = slstm_panels(dims_);
  for (int64_t h = 0; h < heads && panels_.raw() != nullptr; ++h) {
    for (int64_t k = 0; k < dh; ++k) {
      const float* row = recurrent_.f32() + (h * dh + k) * 4 * dh;  // [4*dh]
      for (int64_t j = 0; j < 4 * dh; ++j) {
        const int64_t gate = j / dh, out = j % dh;
        float* panel = panels_.f32() + (h * panels + out / kSlstmElements) * dh * kSlstmPanel;
        panel[(gate / 2 * dh + k) * kSlstmPiece + gate % 2 * kSlstmElements + out % kSlstmElements] = row[j];
      }
    }
  }
}

Tensor slstm(Ctx& ctx, const Tensor& wx, const SlstmRecurrent& recurrent, const Seqs& seqs, LayerStates states,
             size_t first) {
  ctx.without_backward("ops::slstm");
  const SlstmDims& dims = recurrent.dims();
  const int64_t rows = seqs.rows(), width = dims.heads * dims.dh;
  check_shape(kWhere, "wx", wx, {rows, 4 * width});
  check_dtype(kWhere, "wx", wx, DType::kF32);
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0) return out;

  const auto table = [&](size_t spec) { return states.empty() ? nullptr : states.fixed(first + spec); };
  SlstmArgs args = {
      view(wx), recurrent.panels().f32(), view(out), dims, seqs.view(), table(0), table(1), table(2), table(3),
      nullptr};
  const Tensor workspace = ctx.workspace(kernels::slstm_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::slstm(ctx.stream, args);
  return rounded(ctx, out);
}

}  // namespace carousel::ops
