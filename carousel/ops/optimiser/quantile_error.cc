// SPDX-License-Identifier: Apache-2.0
// The quantile error: checks, and the call of the kernel.
#include "carousel/ops/optimiser/quantile_error.h"

#include "carousel/ops/optimiser/quantile_error_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {

Tensor quantile_error(Ctx& ctx, const Tensor& y, const Tensor& wanted, std::span<const double> levels, Grads* grads,
                      float scale) {
  constexpr const char* kWhere = "ops::quantile_error";
  const auto Q = static_cast<int64_t>(levels.size());
  check_shape(kWhere, "wanted", wanted, {-1, -1});
  check_dtype(kWhere, "wanted", wanted, DType::kF32);
  check_shape(kWhere, "y", y, {wanted.dim(0), Q * wanted.dim(1)});
  check_dtype(kWhere, "y", y, DType::kF32);
  const Tensor losses = ctx.arena.empty({y.dim(0)});
  if (y.count() == 0) return losses;
  const Tensor d_y = grads != nullptr && grads->wants(y) ? ctx.arena.empty(y.shape()) : Tensor();
  const View d_view = d_y.defined() ? view(d_y) : View();
  kernels::quantile_error(ctx.stream, {view(y), view(wanted), levels.data(), static_cast<float*>(losses.raw()), d_view,
                                       y.dim(0), Q, wanted.dim(1), scale});
  if (d_y.defined()) grads->give(ctx, y, d_y);
  return losses;
}

}  // namespace carousel::ops
