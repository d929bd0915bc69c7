// SPDX-License-Identifier: Apache-2.0
// Dropout: checks, and the calls of the kernel.
#include "carousel/ops/dropout/dropout.h"

#include <cmath>

#include "carousel/ops/dropout/dropout_cpu.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

// Orders, fresh parameters and drawn tokens read the same seed: this keeps their streams apart.
constexpr uint64_t kOfDropout = 0x64726f706f757421;

DropoutArgs arguments(const View& x, const View& out, const Shape& shape, const Dropout& how, int64_t sublayer) {
  const auto share = static_cast<double>(how.share);
  return {x,
          out,
          shape[0],
          shape[1],
          how.spans.data(),
          static_cast<int64_t>(how.spans.size()),
          how.seed ^ kOfDropout,
          sublayer,
          static_cast<uint32_t>(std::ldexp(share, 32)),
          static_cast<float>(1 / (1 - share))};
}

}  // namespace

Tensor dropout(Ctx& ctx, const Tensor& x, const Dropout& how, int64_t sublayer) {
  constexpr const char* kWhere = "ops::dropout";
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  CAROUSEL_ASSERT(how.share > 0 && how.share < 1 && 0 <= sublayer && sublayer < 1 << 16);
  if (x.count() == 0) return x;
  CAROUSEL_ASSERT(!how.spans.empty() && how.spans.front().begin == 0);
  const Tensor out = ctx.arena.empty(x.shape());
  kernels::dropout(ctx.stream, arguments(view(x), view(out), x.shape(), how, sublayer));
  if (ctx.tape == nullptr) return out;
  const auto backward = [x = x.name(), &how, sublayer](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    const View d_x = view(grads.write(inner, columns(x)));
    kernels::dropout(inner.stream, arguments(view(d[0]), d_x, x.shape(), how, sublayer));
  };
  ctx.tape->record(ctx, kWhere, {x}, {out}, backward);
  return out;
}

}  // namespace carousel::ops
