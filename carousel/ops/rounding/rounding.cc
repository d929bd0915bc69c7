// SPDX-License-Identifier: Apache-2.0
// Rounding to the values of a narrower type: the calls of the kernels.
#include "carousel/ops/rounding/rounding.h"

#include "carousel/ops/rounding/rounding_cpu.h"

namespace carousel::ops {

void round_to(Ctx& ctx, const Tensor& x, DType dtype) {
  if (dtype == DType::kF32 || x.count() == 0) return;
  check_dtype("ops::round_to", "x", x, DType::kF32);
  const int64_t width = x.dim(-1);
  kernels::round_to(ctx.stream, {view(x), x.count() / width, width, dtype});
}

void round_to(Ctx& ctx, const Columns& x, DType dtype) {
  if (dtype == DType::kF32 || x.rows() == 0 || x.count == 0) return;
  check_dtype("ops::round_to", "x", x.of, DType::kF32);
  kernels::round_to(ctx.stream, {view(x), x.rows(), x.count, dtype});
}

void round_states(Ctx& ctx, const Seqs& seqs, LayerStates states, size_t spec, int64_t count, DType dtype) {
  if (dtype == DType::kF32 || count == 0 || seqs.batch() == 0) return;
  kernels::round_states(ctx.stream, {seqs.view(), states.fixed(spec), count, dtype});
}

}  // namespace carousel::ops
