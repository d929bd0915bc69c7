// SPDX-License-Identifier: Apache-2.0
// Checks of the ops that move rows.
#include "carousel/ops/rows/rows.h"

#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/rows/rows_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {

Tensor gather_rows(Ctx& ctx, const Tensor& x, std::span<const int64_t> rows) {
  constexpr const char* kWhere = "ops::gather_rows";
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  for (const int64_t row : rows) {
    if (row < 0 || row >= x.dim(0)) {
      fail(ErrorKind::kShape, "{}: got row {}, expected one of the {} of x", kWhere, row, x.dim(0));
    }
  }
  const auto count = static_cast<int64_t>(rows.size());
  const Tensor out = ctx.arena.empty({count, x.dim(1)});
  if (count > 0) kernels::gather_rows(ctx.stream, {view(x), view(out), rows.data(), count, x.dim(1)});
  if (ctx.tape != nullptr && count > 0) {
    const std::vector<int64_t> from(rows.begin(), rows.end());
    ctx.tape->record(ctx, kWhere, {x}, {out}, [x, from](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      const View d_x = view(grads.write(inner, columns(x)));
      const auto asked = static_cast<int64_t>(from.size());
      kernels::gather_rows_backward(inner.stream, {view(d[0]), d_x, from.data(), asked, x.dim(0), x.dim(1)});
    });
  }
  return out;
}

void copy_columns(Ctx& ctx, const Columns& from, const Columns& to) {
  ctx.without_backward("ops::copy_columns");
  constexpr const char* kWhere = "ops::copy_columns";
  check_columns(kWhere, "from", from, from.of.dim(0), from.count);
  check_columns(kWhere, "to", to, from.rows(), from.count);
  if (from.rows() > 0) kernels::copy_columns(ctx.stream, {view(from), view(to), from.rows(), from.count});
}

}  // namespace carousel::ops
