// SPDX-License-Identifier: Apache-2.0
// Checks, and the list of parts the kernel streams as one. linear_cpu.cc holds the products.
#include "carousel/ops/linear.h"

#include <array>

#include "carousel/core/error.h"

namespace carousel::ops {
namespace {

constexpr size_t kMaxParts = 16;

void check_weight(size_t index, const Weight* weight, int64_t K) {
  if (weight == nullptr || !weight->defined()) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is empty, expected [*, {}]", index, K);
  }
  if (weight->cols() != K) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is [{}, {}], expected [*, {}] (last dim of x)", index,
         weight->rows(), weight->cols(), K);
  }
  if (weight->layout() != Weight::Layout::kPanels) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is held as rows, expected panels", index);
  }
  if (weight->bias.defined()) {
    check_shape("ops::linear", "bias", weight->bias, {weight->rows()});
    check_dtype("ops::linear", "bias", weight->bias, DType::kF32);
  }
}

}  // namespace

Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights) {
  check_shape("ops::linear", "x", x, {-1, -1});
  check_dtype("ops::linear", "x", x, DType::kF32);
  if (weights.size() == 0 || weights.size() > kMaxParts) {
    fail(ErrorKind::kShape, "ops::linear: got {} weights, expected 1 to {}", weights.size(), kMaxParts);
  }
  const int64_t N = x.dim(0), K = x.dim(1);
  std::array<LinearPart, kMaxParts> parts;
  size_t count = 0;
  int64_t M = 0;
  for (const Weight* weight : weights) {
    check_weight(count, weight, K);
    const float* const bias = weight->bias.defined() ? weight->bias.f32() : nullptr;
    parts[count++] = {weight->storage().raw(), bias, weight->rows(), M, weight->dtype()};
    M += weight->rows();
  }
  const Tensor y = ctx.arena.empty({N, M});
  if (N == 0 || ctx.stream.device == Device::kMeta) return y;
  const Tensor packed = N > 1 ? ctx.arena.empty({N, K}) : Tensor();
  kernels::linear_fwd(ctx.stream, {x.f32(), N > 1 ? packed.f32() : nullptr, parts.data(), static_cast<int64_t>(count),
                                   N, K, y.f32(), M});
  return y;
}

}  // namespace carousel::ops
