// SPDX-License-Identifier: Apache-2.0
// All three products are those of the gradients of a projection, whose rows are R, M and M.
#include "carousel/ops/linear/low_rank.h"

#include "carousel/ops/columns.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"

namespace carousel::ops {
namespace {

void check(const char* where, const LowRank& low, const Tensor& w) {
  check_shape(where, "a", low.a, {-1, -1});
  check_shape(where, "b", low.b, {-1, low.a.dim(0)});
  check_shape(where, "w", w, {low.b.dim(0), low.a.dim(1)});
  for (const Tensor& tensor : {low.a, low.b, w}) check_dtype(where, "a, b, w", tensor, DType::kF32);
}

/// scale B, [M, R], or its transpose [R, M].
Tensor scaled(const LowRank& low, bool transposed) {
  const int64_t M = low.b.dim(0), R = low.b.dim(1);
  const Tensor out(transposed ? Shape{R, M} : Shape{M, R}, DType::kF32);
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t r = 0; r < R; ++r) {
      out.f32()[transposed ? r * M + m : m * R + r] = low.scale * low.b.f32()[m * R + r];
    }
  }
  return out;
}

Tensor scratch(const Stream& stream, int64_t bytes) {
  return Tensor(Shape{bytes > 0 ? bytes : 1}, DType::kU8, *stream.memory);
}

/// sum [M, K] += y^T x over their rows.
void add_product(const Stream& stream, const Tensor& y, const Tensor& x, const Tensor& sum) {
  LinearDwArgs args = {view(y), view(x), sum.f32(), y.dim(0), y.dim(1), x.dim(1)};
  const Tensor workspace = scratch(stream, kernels::linear_dw_workspace(stream, args));
  args.workspace = workspace.raw();
  kernels::linear_dw(stream, args);
}

}  // namespace

void add_low_rank(const Stream& stream, const LowRank& low, const Tensor& w) {
  check("ops::add_low_rank", low, w);
  add_product(stream, scaled(low, true), low.a, w);
}

void low_rank_backward(const Stream& stream, const LowRank& low, const Tensor& d_w, const Tensor& d_a,
                       const Tensor& d_b) {
  constexpr const char* kWhere = "ops::low_rank_backward";
  check(kWhere, low, d_w);
  check_shape(kWhere, "d_a", d_a, {low.a.dim(0), low.a.dim(1)});
  check_shape(kWhere, "d_b", d_b, {low.b.dim(0), low.b.dim(1)});
  add_product(stream, scaled(low, false), d_w, d_a);
  const int64_t R = low.a.dim(0), K = low.a.dim(1), M = d_w.dim(0);
  Weight a(R, K, DType::kF32, Weight::Layout::kPanels, *stream.memory);
  a.write_rows(stream, 0, R, low.a.raw());
  const Weight* const weights[] = {&a};
  const Tensor product(Shape{M, R}, DType::kF32, *stream.memory);
  LinearArgs args = {view(d_w), weights, 1, M, K, view(product)};
  const Tensor workspace = scratch(stream, kernels::linear_workspace(stream, args));
  args.workspace = workspace.raw();
  kernels::linear(stream, args);
  for (int64_t i = 0; i < product.count(); ++i) d_b.f32()[i] += low.scale * product.f32()[i];
}

}  // namespace carousel::ops
