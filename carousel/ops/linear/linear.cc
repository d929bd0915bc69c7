// SPDX-License-Identifier: Apache-2.0
// Projections: checks, and the call of the kernel.
#include "carousel/ops/linear/linear.h"

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {

void check_weight(const char* where, size_t index, const Weight* weight, int64_t K) {
  if (weight == nullptr || !weight->defined()) {
    fail(ErrorKind::kShape, "{}: weight {} is empty, expected [*, {}]", where, index, K);
  }
  if (weight->cols() != K) {
    fail(ErrorKind::kShape, "{}: weight {} is [{}, {}], expected [*, {}] (last dim of x)", where, index, weight->rows(),
         weight->cols(), K);
  }
  if (weight->as<DenseRows>() != nullptr) {
    fail(ErrorKind::kShape, "{}: weight {} is held as rows, expected panels", where, index);
  }
  if (weight->bias.defined()) {
    check_shape(where, "bias", weight->bias, {weight->rows()});
    check_dtype(where, "bias", weight->bias, DType::kF32);
  }
}

Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights) {
  ctx.without_backward("ops::linear");
  constexpr const char* kWhere = "ops::linear";
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  if (weights.size() == 0 || weights.size() > kMaxParts) {
    fail(ErrorKind::kShape, "{}: got {} weights, expected 1 to {}", kWhere, weights.size(), kMaxParts);
  }
  int64_t cols = 0;
  size_t index = 0;
  for (const Weight* weight : weights) {
    check_weight(kWhere, index++, weight, x.dim(1));
    cols += weight->rows();
  }
  const Tensor y = ctx.arena.empty({x.dim(0), cols});
  if (x.dim(0) == 0) return y;
  LinearArgs args = {view(x), weights.begin(), static_cast<int64_t>(weights.size()), x.dim(0), x.dim(1), view(y)};
  const Tensor workspace = ctx.workspace(kernels::linear_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::linear(ctx.stream, args);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
