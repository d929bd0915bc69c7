// SPDX-License-Identifier: Apache-2.0
// Attention: checks, and the call of the kernel.
#include "carousel/ops/attention/attention.h"

#include "carousel/core/error.h"
#include "carousel/ops/attention/attention_backward_cpu.h"
#include "carousel/ops/tape.h"

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

AttentionArgs arguments(const Tensor& qkv, const Tensor& out, const AttentionDims& dims, const Seqs& seqs) {
  AttentionArgs args = {};
  args.qkv = view(qkv);
  args.out = view(out);
  if (dims.q_norm.defined()) {
    args.q_norm = view(dims.q_norm).f32();
    args.k_norm = view(dims.k_norm).f32();
  }
  if (dims.inv_freq.defined()) {
    args.inv_freq = view(dims.inv_freq).f32();
    args.rotary = 2 * dims.inv_freq.dim(0);
  }
  args.norm_eps = dims.norm_eps;
  args.heads = dims.heads;
  args.kv_heads = dims.kv_heads;
  args.head_dim = dims.head_dim;
  args.window = dims.window;
  args.seqs = seqs.view();
  return args;
}

/// What the backward reads.
struct Kept {
  Tensor qkv, out;
  Tensor log_sums;  // [N, H]
  Tensor pages;     // of the rows before this forward, or empty
};

/// A copy: the states' pages may be gone, or another sequence's, when the tape runs.
Tensor keep_pages(Ctx& ctx, const AttentionArgs& args, const AttentionDims& dims) {
  const KeptPages kept = {dims.window};
  int64_t count = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) count += kept.count(args.seqs.pos[s], args.seqs.length(s));
  if (count == 0) return {};
  const Tensor pages = ctx.arena.empty({2 * count, dims.kv_heads * dims.head_dim * kPageRows});
  kernels::attention_keep(ctx.stream, {args, pages.f32()});
  return pages;
}

void record(Ctx& ctx, const Kept& kept, const AttentionDims& dims, const Seqs& seqs, const LayerStates& states) {
  const auto backward = [kept, dims, seqs, states](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    AttentionBackwardArgs args = {};
    args.attention = arguments(kept.qkv, kept.out, dims, seqs);
    args.attention.log_sums = kept.log_sums.f32();
    args.kept = kept.pages.defined() ? kept.pages.f32() : nullptr;
    args.d_out = view(d[0]);
    if (grads.wants(kept.qkv)) args.d_qkv = view(grads.write(inner, columns(kept.qkv)));
    args.d_q_norm = grads.parameter(dims.q_norm);
    args.d_k_norm = grads.parameter(dims.k_norm);
    if (const LayerStates d_states = grads.states(states); !d_states.empty()) {
      args.d_k_pages = d_states.pages(0);
      args.d_v_pages = d_states.pages(1);
    }
    const Tensor workspace = inner.workspace(kernels::attention_backward_workspace(inner.stream, args));
    args.workspace = workspace.raw();
    kernels::attention_backward(inner.stream, args);
  };
  ctx.tape->record(ctx, kWhere, {kept.qkv, dims.q_norm, dims.k_norm}, {kept.out}, backward, states);
}

}  // namespace

Tensor attention(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states) {
  check(qkv, dims, seqs, states);
  Tensor out = ctx.arena.empty({seqs.rows(), dims.heads * dims.head_dim});
  if (seqs.rows() == 0) return out;

  AttentionArgs args = arguments(qkv, out, dims, seqs);
  if (!states.empty()) {
    args.k_pages = states.pages(0);
    args.v_pages = states.pages(1);
  }
  const bool recorded =
      ctx.tape != nullptr && (ctx.tape->needs(qkv) || ctx.tape->needs(dims.q_norm) || ctx.tape->needs(dims.k_norm));
  const Numerics& numerics = ctx.numerics;
  if (!casts(numerics)) {
    const Tensor log_sums = recorded ? ctx.arena.empty({seqs.rows(), dims.heads}) : Tensor();
    const Tensor workspace = ctx.workspace(kernels::attention_workspace(ctx.stream, args));
    args.workspace = workspace.raw();
    args.log_sums = view(log_sums).f32();
    kernels::attention(ctx.stream, args);
    if (recorded) record(ctx, {qkv, out, log_sums, keep_pages(ctx, args, dims)}, dims, seqs, states);
    return out;
  }
  if (recorded) record(ctx, {qkv, out, {}, {}}, dims, seqs, states);  // throws: the profile rounds
  CastAttentionArgs cast = {args, numerics.norm, numerics.activations, numerics.attention.rotary,
                            numerics.attention.scores};
  const Tensor workspace = ctx.workspace(kernels::cast_attention_workspace(ctx.stream, cast));
  cast.attention.workspace = workspace.raw();
  kernels::cast_attention(ctx.stream, cast);
  return out;
}

}  // namespace carousel::ops
