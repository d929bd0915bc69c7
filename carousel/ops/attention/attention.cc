// SPDX-License-Identifier: Apache-2.0
// Attention: checks, and the call of the kernel.
#include "carousel/ops/attention/attention.h"

#include "carousel/core/error.h"
#include "carousel/ops/attention/attention_cpu.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::attention";

void check(const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states) {
  const int64_t heads = dims.heads, kv_heads = dims.kv_heads, d = dims.head_dim;
  if (heads < 1 || kv_heads < 1 || d < 1 || heads % kv_heads != 0) {
    fail(ErrorKind::kShape,
         "{}: heads {}, kv_heads {}, head_dim {}, expected at least 1 each and kv_heads to divide heads", kWhere, heads,
         kv_heads, d);
  }
  check_shape(kWhere, "qkv", qkv, {seqs.rows(), (heads + 2 * kv_heads) * d});
  check_dtype(kWhere, "qkv", qkv, DType::kF32);
  if (dims.q_norm.defined() != dims.k_norm.defined()) {
    fail(ErrorKind::kShape, "{}: got only one of q_norm and k_norm, expected both or neither", kWhere);
  }
  if (dims.q_norm.defined()) {
    check_shape(kWhere, "q_norm", dims.q_norm, {d});
    check_dtype(kWhere, "q_norm", dims.q_norm, DType::kF32);
    check_shape(kWhere, "k_norm", dims.k_norm, {d});
    check_dtype(kWhere, "k_norm", dims.k_norm, DType::kF32);
  }
  if (dims.inv_freq.defined()) {
    check_shape(kWhere, "inv_freq", dims.inv_freq, {-1});
    if (const int64_t pairs = dims.inv_freq.dim(0); pairs < 1 || pairs > d / 2) {
      fail(ErrorKind::kShape, "{}: inv_freq is [{}], expected 1 to {} pairs of head_dim {}", kWhere, pairs, d / 2, d);
    }
    check_dtype(kWhere, "inv_freq", dims.inv_freq, DType::kF32);
  }
  if (dims.window < 0) fail(ErrorKind::kShape, "{}: window is {}, expected 0 or more", kWhere, dims.window);
  for (int64_t s = 0; s < seqs.batch() && states.empty(); ++s) {
    if (const int64_t pos = seqs.pos[static_cast<size_t>(s)]; pos != 0) {
      fail(ErrorKind::kState, "{}: sequence {} starts at position {} without a state, expected 0", kWhere, s, pos);
    }
  }
}

bool casts(const Numerics& numerics) {
  return numerics.activations != DType::kF32 || numerics.attention != Numerics::Attention{} ||
         numerics.norm != Numerics::Norm{};
}

}  // namespace

Tensor attention(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states) {
  ctx.without_backward("ops::attention");
  check(qkv, dims, seqs, states);
  Tensor out = ctx.arena.empty({seqs.rows(), dims.heads * dims.head_dim});
  if (seqs.rows() == 0) return out;

  AttentionArgs args = {};
  args.qkv = view(qkv);
  args.out = view(out);
  if (dims.q_norm.defined()) {
    args.q_norm = dims.q_norm.f32();
    args.k_norm = dims.k_norm.f32();
  }
  if (dims.inv_freq.defined()) {
    args.inv_freq = dims.inv_freq.f32();
    args.rotary = 2 * dims.inv_freq.dim(0);
  }
  args.norm_eps = dims.norm_eps;
  args.heads = dims.heads;
  args.kv_heads = dims.kv_heads;
  args.head_dim = dims.head_dim;
  args.window = dims.window;
  args.seqs = seqs.view();
  if (!states.empty()) {
    args.k_pages = states.pages(0);
    args.v_pages = states.pages(1);
  }
  const Numerics& numerics = ctx.numerics;
  if (!casts(numerics)) {
    const Tensor workspace = ctx.workspace(kernels::attention_workspace(ctx.stream, args));
    args.workspace = workspace.raw();
    kernels::attention(ctx.stream, args);
    return out;
  }
  CastAttentionArgs cast = {args, numerics.norm, numerics.activations, numerics.attention.rotary,
                            numerics.attention.scores};
  const Tensor workspace = ctx.workspace(kernels::cast_attention_workspace(ctx.stream, cast));
  cast.attention.workspace = workspace.raw();
  kernels::cast_attention(ctx.stream, cast);
  return out;
}

}  // namespace carousel::ops
