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

void add_product(Ctx& ctx, const Columns& x, const Columns& d_y, float* d_w, bool rounds) {
  LinearDwArgs args = {view(d_y), view(x), d_w, x.of.dim(0), d_y.count, x.count, nullptr, rounds};
  const Tensor workspace = ctx.workspace(kernels::linear_dw_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::linear_dw(ctx.stream, args);
}

/// What weights and biases get from d_y, where their outputs lie side by side: d_w += d_y^T x, d_b += the rows of d_y,
/// both as one chain over the rows. Nothing where they are not trained. Gradients that follow each other in memory, as
/// those of a block's projections do, are one product: x is brought into panels once for all of them.
void add_weights(Ctx& ctx, const Columns& x, std::span<const Weight* const> weights, const Columns& d_y, Grads& grads) {
  int64_t first = 0;
  float* joined = nullptr;
  bool rounds = false;  // of what is joined
  Columns of_joined = {d_y.of, d_y.first, 0};
  for (const Weight* const weight : weights) {
    const Columns part = {d_y.of, d_y.first + first, weight->rows()};
    first += part.count;
    if (float* const d_b = grads.parameter(weight->bias)) {
      kernels::sum_rows(ctx.stream, {view(part), d_b, x.of.dim(0), part.count});
    }
    float* const d_w = grads.parameter(weight->master());
    const bool follows = d_w != nullptr && joined != nullptr && d_w == joined + of_joined.count * x.count;
    if (follows && rounds == (weight->dtype() == DType::kBF16)) {
      of_joined.count += part.count;
      continue;
    }
    if (joined != nullptr) add_product(ctx, x, of_joined, joined, rounds);
    joined = d_w;
    rounds = weight->dtype() == DType::kBF16;
    of_joined = part;
  }
  if (joined != nullptr) add_product(ctx, x, of_joined, joined, rounds);
}

void record(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights, const Tensor& y) {
  std::vector<Weight> held;
  bool needed = ctx.tape->needs(x);
  for (const Weight* weight : weights) {
    needed = needed || ctx.tape->needs(weight->master()) || ctx.tape->needs(weight->bias);
    held.push_back(*weight);
  }
  if (!needed) return;
  ctx.tape->record_needed(ctx, "ops::linear", {y}, [x, held](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    std::vector<const Weight*> list;
    for (const Weight& weight : held) list.push_back(&weight);
    add_weights(inner, columns(x), list, columns(d[0]), grads);
    if (!grads.wants(x)) return;
    linear_dx(inner, columns(d[0]), list, grads.write(inner, columns(x)));
  });
}

}  // namespace

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
