// SPDX-License-Identifier: Apache-2.0
// The cross entropy: checks, and the call of the kernel.
#include "carousel/ops/tokens/cross_entropy.h"

#include "carousel/core/error.h"
#include "carousel/ops/tokens/cross_entropy_cpu.h"

namespace carousel::ops {

Tensor cross_entropy(Ctx& ctx, const Tensor& logits, const Ids& targets) {
  ctx.without_backward("ops::cross_entropy");
  constexpr const char* kWhere = "ops::cross_entropy";
  check_shape(kWhere, "logits", logits, {-1, -1});
  check_dtype(kWhere, "logits", logits, DType::kF32);
  const int64_t rows = logits.dim(0), vocab = logits.dim(1);
  check_shape(kWhere, "targets", targets.tensor(), {rows});
  if (targets.bound() > vocab) {
    fail(ErrorKind::kShape, "{}: logits are {}, expected [*, {}] (bound of the targets)", kWhere, logits.shape().str(),
         targets.bound());
  }
  Tensor nll = ctx.arena.empty({rows});
  if (rows == 0) return nll;
  const auto* const target = static_cast<const int32_t*>(targets.tensor().raw());
  kernels::cross_entropy(ctx.stream, {view(logits), target, view(nll), rows, vocab});
  return nll;
}

}  // namespace carousel::ops
