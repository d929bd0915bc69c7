// SPDX-License-Identifier: Apache-2.0
// Muon as calls of kernels, and SGD.
#include "carousel/ops/optimiser/muon.h"

#include <algorithm>
#include <cmath>

#include "carousel/core/assert.h"
#include "carousel/ops/optimiser/adamw.h"
#include "carousel/ops/optimiser/muon_cpu.h"

namespace carousel::ops {
namespace {

constexpr double kEps = 1e-7;

float* values(const Tensor& tensor) { return static_cast<float*>(tensor.raw()); }

void transpose(Ctx& ctx, const Tensor& from, const Tensor& to) {
  kernels::transpose_matrix(ctx.stream, {values(from), values(to), from.dim(0), from.dim(1)});
}

void orthogonalise(Ctx& ctx, const Tensor& x) {
  OrthogonaliseArgs args = {values(x), x.dim(0), x.dim(1)};
  const Tensor workspace = ctx.workspace(kernels::orthogonalise_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::orthogonalise(ctx.stream, args);
}

}  // namespace

void muon(Ctx& ctx, const Muon& options, const MuonMatrix& matrix) {
  const int64_t rows = matrix.rows, cols = matrix.cols, count = rows * cols;
  if (count == 0) return;
  CAROUSEL_ASSERT(matrix.first >= 0 && matrix.first + count <= matrix.gradients.count());
  const auto part = [&](const Tensor& flat) { return values(flat.rows(matrix.first, matrix.first + count)); };
  const Tensor u = ctx.arena.empty({rows, cols});
  kernels::muon_update(ctx.stream, {part(matrix.gradients), part(matrix.momentum), values(u), count, options.momentum,
                                    options.grad_scale});
  const double norm = std::sqrt(sum_of_squares(ctx.stream, u));
  kernels::blend(ctx.stream, {values(u), values(u), values(u), count, static_cast<float>(1 / std::max(norm, kEps)), 0});
  if (rows >= cols) {
    orthogonalise(ctx, u);
  } else {
    const Tensor upright = ctx.arena.empty({cols, rows});
    transpose(ctx, u, upright);
    orthogonalise(ctx, upright);
    transpose(ctx, upright, u);
  }
  const auto lr = static_cast<double>(options.lr);
  const double ratio = std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols));
  float* const w = part(matrix.masters);
  kernels::blend(ctx.stream, {w, values(u), w, count, static_cast<float>(1 - lr * static_cast<double>(options.decay)),
                              static_cast<float>(-lr * std::sqrt(ratio))});
}

void sgd(const Stream& stream, const Sgd& options, const SgdArrays& arrays) {
  if (arrays.count == 0 || stream.device() == Device::kMeta) return;
  CAROUSEL_ASSERT(arrays.first >= 0 && arrays.first + arrays.count <= arrays.gradients.count());
  const auto keep = static_cast<float>(1 - static_cast<double>(options.lr) * static_cast<double>(options.decay));
  kernels::sgd(stream, {values(arrays.masters) + arrays.first, values(arrays.gradients) + arrays.first,
                        values(arrays.momentum) + arrays.first, arrays.count, keep, options.lr, options.momentum,
                        options.grad_scale});
}

}  // namespace carousel::ops
