// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {

void round_to(Ctx& ctx, const Tensor& x, DType dtype) {
  if (dtype == DType::kF32 || x.count() == 0 || ctx.stream.device() == Device::kMeta) return;
  check_dtype("ops::round_to", "x", x, DType::kF32);
  const int64_t width = x.dim(-1);
  kernels::round_to(ctx.stream, {x.f32(), x.count() / width, width, width, dtype});
}

void round_to(Ctx& ctx, View x, int64_t rows, int64_t width, DType dtype) {
  if (dtype == DType::kF32 || rows == 0 || x.data == nullptr) return;
  kernels::round_to(ctx.stream, {x.data, rows, width, x.stride, dtype});
}

}  // namespace carousel::ops
