// SPDX-License-Identifier: Apache-2.0
// Checks, and the list of parts the kernel streams as one. linear_cpu.cc holds the products.
#include "carousel/ops/linear.h"

#include <array>

#include "carousel/core/error.h"
#include "carousel/ops/rounding.h"
#include "carousel/ops/sparse_linear.h"

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
  if (is_block(weight->dtype()) && weight->sparse() == nullptr) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is {}, expected F32, F16 or BF16", index,
         dtype_name(weight->dtype()));
  }
  if (weight->bias.defined()) {
    check_shape("ops::linear", "bias", weight->bias, {weight->rows()});
    check_dtype("ops::linear", "bias", weight->bias, DType::kF32);
  }
}

/// The parts of one call, laid side by side: those held as panels, and those held sparse.
struct Parts {
  std::array<LinearPart, kMaxParts> dense;
  std::array<SparsePart, kMaxParts> sparse;
  int64_t dense_count = 0, sparse_count = 0;
  int64_t cols = 0;  // of y

  void add(const Weight& weight) {
    const float* const bias = weight.bias.defined() ? weight.bias.f32() : nullptr;
    if (const SparsePanels* panels = weight.sparse(); panels != nullptr) {
      sparse[static_cast<size_t>(sparse_count++)] = {panels->steps(),  panels->first_steps(),
                                                     panels->counts(), panels->dtype(),
                                                     panels->wide(),   bias,
                                                     weight.rows(),    cols};
    } else {
      dense[static_cast<size_t>(dense_count++)] = {weight.storage().raw(), bias, weight.rows(), cols, weight.dtype()};
    }
    cols += weight.rows();
  }
};

Parts check_and_list(const Tensor& x, std::initializer_list<const Weight*> weights) {
  check_shape("ops::linear", "x", x, {-1, -1});
  check_dtype("ops::linear", "x", x, DType::kF32);
  if (weights.size() == 0 || weights.size() > kMaxParts) {
    fail(ErrorKind::kShape, "ops::linear: got {} weights, expected 1 to {}", weights.size(), kMaxParts);
  }
  Parts parts;
  size_t index = 0;
  for (const Weight* weight : weights) {
    check_weight(index++, weight, x.dim(1));
    parts.add(*weight);
  }
  return parts;
}

void run(Ctx& ctx, const Tensor& x, const Parts& parts, float* packed, const Tensor& y) {
  const int64_t N = x.dim(0), K = x.dim(1);
  if (parts.dense_count > 0) {
    kernels::linear_fwd(ctx.stream,
                        {x.f32(), packed, parts.dense.data(), parts.dense_count, N, K, y.f32(), parts.cols});
  }
  if (parts.sparse_count > 0) {
    kernels::sparse_linear_fwd(ctx.stream,
                               {x.f32(), packed, parts.sparse.data(), parts.sparse_count, N, K, y.f32(), parts.cols});
  }
}

}  // namespace

int64_t packed_count(int64_t N, int64_t K) { return N * K + kSparseSlack; }

Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights) {
  const Parts parts = check_and_list(x, weights);
  const int64_t N = x.dim(0);
  const Tensor y = ctx.arena.empty({N, parts.cols});
  if (N == 0 || ctx.stream.device == Device::kMeta) return y;
  const Tensor packed = N > 1 ? ctx.arena.empty({packed_count(N, x.dim(1))}) : Tensor();
  run(ctx, x, parts, N > 1 ? packed.f32() : nullptr, y);
  return rounded(ctx, y);
}

void linear_into(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights, const Tensor& y,
                 const Tensor& packed) {
  const Parts parts = check_and_list(x, weights);
  check_shape("ops::linear", "y", y, {x.dim(0), parts.cols});
  check_dtype("ops::linear", "y", y, DType::kF32);
  if (packed.count() < packed_count(x.dim(0), x.dim(1))) {
    fail(ErrorKind::kShape, "ops::linear: packed holds {} elements, expected {} for x {}", packed.count(),
         packed_count(x.dim(0), x.dim(1)), x.shape().str());
  }
  if (x.dim(0) == 0) return;
  run(ctx, x, parts, packed.f32(), y);
  rounded(ctx, y);
}

}  // namespace carousel::ops
