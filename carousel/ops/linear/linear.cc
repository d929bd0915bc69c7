// SPDX-License-Identifier: Apache-2.0
// Projections: checks, and the call of the kernel.
#include "carousel/ops/linear/linear.h"

#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

void record(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights, const Tensor& y) {
  std::vector<Weight> held;
  bool needed = ctx.tape->needs(x);
  for (const Weight* weight : weights) {
    needed = needed || ctx.tape->needs(weight->master()) || ctx.tape->needs(weight->bias);
    held.push_back(*weight);
  }
  if (!needed) return;
  ctx.tape->record_needed(ctx, "ops::linear", {y}, [x, held](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    int64_t first = 0;
    for (const Weight& weight : held) {
      linear_backward(inner, columns(x), weight, columns(d[0], first, weight.rows()), grads);
      first += weight.rows();
    }
    if (!grads.wants(x)) return;
    std::vector<const Weight*> list;
    for (const Weight& weight : held) list.push_back(&weight);
    linear_dx(inner, columns(d[0]), list, grads.write(inner, columns(x)));
  });
}

}  // namespace

void linear_backward(Ctx& ctx, const Columns& x, const Weight& weight, const Columns& d_y, Grads& grads) {
  const int64_t N = x.of.dim(0);
  if (float* const d_w = grads.parameter(weight.master())) {
    LinearDwArgs args = {view(d_y), view(x), d_w, N, weight.rows(), weight.cols()};
    const Tensor workspace = ctx.workspace(kernels::linear_dw_workspace(ctx.stream, args));
    args.workspace = workspace.raw();
    kernels::linear_dw(ctx.stream, args);
  }
  if (float* const d_b = grads.parameter(weight.bias)) {
    kernels::sum_rows(ctx.stream, {view(d_y), d_b, N, weight.rows()});
  }
}

void linear_dx(Ctx& ctx, const Columns& d_y, std::span<const Weight* const> weights, const Columns& d_x) {
  for (const Weight* const weight : weights) {
    if (weight->transpose() != nullptr) continue;
    fail(ErrorKind::kUsage, "ops::linear: a weight [{}, {}] has no transpose, expected a model loaded for training",
         weight->rows(), weight->cols());
  }
  LinearDxArgs args = {view(d_y),     weights.data(), static_cast<int64_t>(weights.size()),
                       d_x.of.dim(0), d_x.count,      view(d_x)};
  const Tensor workspace = ctx.workspace(kernels::linear_dx_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::linear_dx(ctx.stream, args);
}

void check_weight(const char* where, size_t index, const Weight* weight, int64_t K) {
  if (weight == nullptr || !weight->defined()) {
    fail(ErrorKind::kShape, "{}: weight {} is empty, expected [*, {}]", where, index, K);
  }
  if (weight->cols() != K) {
    fail(ErrorKind::kShape, "{}: weight {} is [{}, {}], expected [*, {}] (last dim of x)", where, index, weight->rows(),
         weight->cols(), K);
  }
  if (weight->as<DenseRows>() != nullptr && !weight->memory().is_apart()) {
    fail(ErrorKind::kShape, "{}: weight {} is held as rows, expected panels", where, index);
  }
  if (weight->bias.defined()) {
    check_shape(where, "bias", weight->bias, {weight->rows()});
    check_dtype(where, "bias", weight->bias, DType::kF32);
  }
}

Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights) {
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
  if (ctx.tape != nullptr) record(ctx, x, weights, y);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
