// SPDX-License-Identifier: Apache-2.0
// The cross entropy: checks, and the call of the kernel.
#include "carousel/ops/tokens/cross_entropy.h"

#include "carousel/core/error.h"
#include "carousel/ops/tokens/cross_entropy_cpu.h"

namespace carousel::ops {

Tensor cross_entropy(Ctx& ctx, const Tensor& logits, const Tensor& targets) {
  constexpr const char* kWhere = "ops::cross_entropy";
  check_shape(kWhere, "logits", logits, {-1, -1});
  check_dtype(kWhere, "logits", logits, DType::kF32);
  const int64_t rows = logits.dim(0), vocab = logits.dim(1);
  check_shape(kWhere, "targets", targets, {rows});
  check_dtype(kWhere, "targets", targets, DType::kI32);
  Tensor nll = ctx.arena.empty({rows});
  if (rows == 0) return nll;
  const int32_t* target = targets.i32();
  for (int64_t n = 0; n < rows && target != nullptr; ++n) {
    if (target[n] < 0 || target[n] >= vocab) {
      fail(ErrorKind::kInput, "{}: target {} is {}, expected 0 to {}", kWhere, n, target[n], vocab - 1);
    }
  }
  kernels::cross_entropy(ctx.stream, {view(logits), target, view(nll), rows, vocab});
  return nll;
}

}  // namespace carousel::ops
