// SPDX-License-Identifier: Apache-2.0
// The look-up: checks, and the call of the kernel.
#include "carousel/ops/tokens/embedding.h"

#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/tokens/embedding_cpu.h"

namespace carousel::ops {

Tensor embedding(Ctx& ctx, const Ids& tokens, const Weight& table) {
  ctx.without_backward("ops::embedding");
  if (!table.defined()) fail(ErrorKind::kShape, "ops::embedding: table is empty, expected [V, D]");
  if (tokens.bound() > table.rows()) {
    fail(ErrorKind::kShape, "ops::embedding: table is [{}, {}], expected [{}, *] (bound of the tokens)", table.rows(),
         table.cols(), tokens.bound());
  }
  const int64_t N = tokens.count(), D = table.cols();
  const Tensor x = ctx.arena.empty({N, D});
  if (N == 0) return x;
  kernels::embedding(ctx.stream, {static_cast<const int32_t*>(tokens.tensor().raw()), &table, view(x), N, D});
  return rounded(ctx, x);
}

}  // namespace carousel::ops
