// SPDX-License-Identifier: Apache-2.0
// The squared error: checks, and the call of the kernel.
#include "carousel/ops/optimiser/squared_error.h"

#include "carousel/ops/optimiser/squared_error_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {

Tensor squared_error(Ctx& ctx, const Tensor& y, const Tensor& wanted, Grads* grads, float scale) {
  constexpr const char* kWhere = "ops::squared_error";
  check_shape(kWhere, "y", y, {-1, -1});
  check_dtype(kWhere, "y", y, DType::kF32);
  check_shape(kWhere, "wanted", wanted, {y.dim(0), y.dim(1)});
  check_dtype(kWhere, "wanted", wanted, DType::kF32);
  const Tensor losses = ctx.arena.empty({y.dim(0)});
  if (y.count() == 0) return losses;
  const Tensor d_y = grads != nullptr && grads->wants(y) ? ctx.arena.empty(y.shape()) : Tensor();
  const View d_view = d_y.defined() ? view(d_y) : View();
  kernels::squared_error(ctx.stream,
                         {view(y), view(wanted), static_cast<float*>(losses.raw()), d_view, y.dim(0), y.dim(1), scale});
  if (d_y.defined()) grads->give(ctx, y, d_y);
  return losses;
}

}  // namespace carousel::ops
