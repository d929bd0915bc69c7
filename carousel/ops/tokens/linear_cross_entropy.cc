// SPDX-License-Identifier: Apache-2.0
// The head with its loss: checks, and the call of the kernel.
#include "carousel/ops/tokens/linear_cross_entropy.h"

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/tape.h"
#include "carousel/ops/tokens/linear_cross_entropy_cpu.h"

namespace carousel::ops {

Tensor linear_cross_entropy(Ctx& ctx, const Tensor& hidden, const Head& head, const Targets& targets, Grads* grads,
                            float scale) {
  constexpr const char* kWhere = "ops::linear_cross_entropy";
  check_shape(kWhere, "hidden", hidden, {-1, -1});
  check_dtype(kWhere, "hidden", hidden, DType::kF32);
  check_weight(kWhere, 0, &head.weight, hidden.dim(1));
  check_shape(kWhere, "targets", targets.tensor(), {hidden.dim(0)});
  if (targets.bound() > head.weight.rows()) {
    fail(ErrorKind::kShape, "{}: the head is [{}, {}], expected [{}, *] (bound of the targets)", kWhere,
         head.weight.rows(), head.weight.cols(), targets.bound());
  }
  const int64_t N = hidden.dim(0);
  const Tensor nll = ctx.arena.empty({N});
  if (N == 0) return nll;
  LinearCrossEntropyArgs args = {};
  args.hidden = view(hidden);
  args.head = &head;
  args.targets = static_cast<const int32_t*>(targets.tensor().raw());
  args.nll = static_cast<float*>(nll.raw());
  args.N = N;
  args.D = hidden.dim(1);
  args.V = head.weight.rows();
  args.scale = scale;
  Tensor d_hidden;
  if (grads != nullptr) {
    args.d_weight = grads->parameter(head.weight.master());
    args.d_bias = grads->parameter(head.weight.bias);
    if (grads->wants(hidden)) {
      if (head.weight.transpose() == nullptr) {
        fail(ErrorKind::kUsage, "{}: the head has no transpose, expected a model loaded for training", kWhere);
      }
      args.wants_hidden = true;
      d_hidden = ctx.arena.empty(hidden.shape());
      args.d_hidden = view(d_hidden);
    }
  }
  const Tensor workspace = ctx.workspace(kernels::linear_cross_entropy_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::linear_cross_entropy(ctx.stream, args);
  if (d_hidden.defined()) grads->give(ctx, hidden, d_hidden);
  return nll;
}

}  // namespace carousel::ops
