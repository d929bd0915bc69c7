// SPDX-License-Identifier: Apache-2.0
// Feed-forward networks: checks, and the call of the kernel. A profile that rounds takes the three ops one by
// one, and so does a tape, for their gradients.
#include "carousel/ops/linear/feed_forward.h"

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/linear/linear_cpu.h"

namespace carousel::ops {

Tensor feed_forward(Ctx& ctx, const Tensor& x, const Weight& gate, const Weight& up, const Weight& down,
                    Activation activation) {
  constexpr const char* kWhere = "ops::feed_forward";
  check_shape(kWhere, "x", x, {-1, -1});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_weight(kWhere, 0, &gate, x.dim(1));
  check_weight(kWhere, 1, &up, x.dim(1));
  if (up.rows() != gate.rows()) {
    fail(ErrorKind::kShape, "{}: up has {} rows, expected those of gate, {}", kWhere, up.rows(), gate.rows());
  }
  check_weight(kWhere, 2, &down, gate.rows());
  const Numerics& numerics = ctx.numerics;
  if (ctx.tape != nullptr || numerics.activations != DType::kF32 || numerics.gates != DType::kF32) {
    return linear(ctx, gated_unit(ctx, linear(ctx, x, {&gate, &up}), activation), {&down});
  }
  const Tensor y = ctx.arena.empty({x.dim(0), down.rows()});
  if (x.dim(0) == 0) return y;
  FeedForwardArgs args = {view(x),  &gate,    &up,     &down,  activation_of(ctx, activation),
                          x.dim(0), x.dim(1), view(y), nullptr};
  const Tensor workspace = ctx.workspace(kernels::feed_forward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::feed_forward(ctx.stream, args);
  return y;
}

}  // namespace carousel::ops
