// SPDX-License-Identifier: Apache-2.0
// A look-up reads one row of the table per token. Weight can read a row in either layout, so there is no kernel here.
#include "carousel/ops/tokens/embedding.h"

#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {

Tensor embedding(Ctx& ctx, const Tensor& tokens, const Weight& table) {
  check_shape("ops::embedding", "tokens", tokens, {-1});
  check_dtype("ops::embedding", "tokens", tokens, DType::kI32);
  if (!table.defined()) fail(ErrorKind::kShape, "ops::embedding: table is empty, expected [V, D]");
  const int64_t N = tokens.dim(0), D = table.cols();
  const Tensor x = ctx.arena.empty({N, D});
  if (ctx.stream.device() == Device::kMeta) return x;
  const int32_t* const ids = tokens.i32();
  for (int64_t n = 0; n < N; ++n) {
    if (ids[n] < 0 || ids[n] >= table.rows()) {
      fail(ErrorKind::kInput, "ops::embedding: token {} is id {}, expected 0 to {}", n, ids[n], table.rows() - 1);
    }
  }
  parallel_for(*ctx.stream.pool, N, [&](int64_t n) { table.read_rows(ids[n], 1, x.f32() + n * D); });
  return rounded(ctx, x);
}

}  // namespace carousel::ops
