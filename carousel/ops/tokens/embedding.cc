// SPDX-License-Identifier: Apache-2.0
// The look-up: checks, and the call of the kernel.
#include "carousel/ops/tokens/embedding.h"

#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/tape.h"
#include "carousel/ops/tokens/embedding_cpu.h"

namespace carousel::ops {

Tensor embedding(Ctx& ctx, const Ids& tokens, const Weight& table, int64_t padding) {
  if (!table.defined()) fail(ErrorKind::kShape, "ops::embedding: table is empty, expected [V, D]");
  if (tokens.bound() > table.rows()) {
    fail(ErrorKind::kShape, "ops::embedding: table is [{}, {}], expected [{}, *] (bound of the tokens)", table.rows(),
         table.cols(), tokens.bound());
  }
  const int64_t N = tokens.count(), D = table.cols();
  const Tensor x = ctx.arena.empty({N, D});
  if (N == 0) return x;
  kernels::embedding(ctx.stream, {static_cast<const int32_t*>(tokens.tensor().raw()), &table, view(x), N, D});
  if (ctx.tape != nullptr) {
    const Tensor ids = tokens.tensor(), master = table.master();
    ctx.tape->record(ctx, "ops::embedding", {master}, {x}, [=](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      const auto* const rows = static_cast<const int32_t*>(ids.raw());
      kernels::embedding_backward(inner.stream, {rows, view(d[0]), grads.table(master), N, D, padding});
    });
  }
  return rounded(ctx, x);
}

}  // namespace carousel::ops
