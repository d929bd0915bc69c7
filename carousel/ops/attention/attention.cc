// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/attention/attention.h"

#include <algorithm>

#include "carousel/core/error.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::attention";

int64_t pages_for(int64_t rows) { return (rows + kPageRows - 1) / kPageRows; }

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

/// Pages for the sequences of a batch that keeps none, and the tables that point to them.
struct ScratchPages {
  Tensor pages;  // [2, P, G*d*kPageRows]: keys, values; contents unspecified
  Tensor table;  // [2, P] pointers
};

ScratchPages make_pages(Ctx& ctx, const AttentionDims& dims, const Seqs& seqs) {
  int64_t count = 0;
  for (int64_t s = 0; s < seqs.batch(); ++s) count += pages_for(seqs.length(s));
  ScratchPages scratch;
  scratch.pages = ctx.arena.empty({2, count, dims.kv_heads, dims.head_dim, kPageRows});
  scratch.table = ctx.arena.empty({2, count, static_cast<int64_t>(sizeof(float*))}, DType::kU8);
  auto** table = static_cast<float**>(scratch.table.raw());
  for (int64_t p = 0; p < 2 * count; ++p) {
    table[p] = scratch.pages.f32() + p * dims.kv_heads * dims.head_dim * kPageRows;
  }
  return scratch;
}

/// Fills sequences [B] and the totals of `args`.
void list_sequences(const AttentionDims& dims, const Seqs& seqs, LayerStates states, const ScratchPages& scratch,
                    AttentionSequence* sequences, AttentionArgs* args) {
  auto** table = static_cast<float**>(scratch.table.raw());
  int64_t scratch_page = 0;
  for (int64_t s = 0; s < seqs.batch(); ++s) {
    AttentionSequence& seq = sequences[s];
    seq = {seqs.offsets[static_cast<size_t>(s)],
           seqs.length(s),
           seqs.pos[static_cast<size_t>(s)],
           nullptr,
           nullptr,
           args->page_items,
           args->blocks,
           0,
           0,
           args->parts.count};
    if (seq.rows == 0) continue;
    const int64_t keys = seq.pos + seq.rows, hidden = dims.window > 0 ? seq.pos + 1 - dims.window : 0;
    seq.first_span = std::max<int64_t>(0, hidden) / kAttentionSpan;
    seq.spans = (keys - 1) / kAttentionSpan + 1 - seq.first_span;
    const int64_t pages = pages_for(seq.pos + seq.rows);
    if (states.empty()) {
      seq.k_pages = table + scratch_page;
      seq.v_pages = table + scratch.pages.dim(1) + scratch_page;
      scratch_page += pages;
    } else {
      seq.k_pages = states.pages(0)[s];
      seq.v_pages = states.pages(1)[s];
    }
    args->page_items += pages - seq.pos / kPageRows;
    const int64_t query_rows = seq.rows * (dims.heads / dims.kv_heads);
    const int64_t blocks = (query_rows - 1) / kAttentionRows + 1;
    args->blocks += blocks;
    args->parts.count += blocks * seq.spans;
    args->parts.rows = std::max(args->parts.rows, std::min(query_rows, kAttentionRows));
  }
}

/// Whether threads share the spans of a block: where one block has much of all the work, and would be waited for.
bool shares_spans(const AttentionArgs& args, int64_t threads) {
  constexpr int64_t kTasksPerThread = 4;
  int64_t most = 0;
  for (int64_t s = 0; s < args.batch; ++s) most = std::max(most, args.sequences[s].spans);
  return threads > 1 && most > 1 && args.parts.count * args.kv_heads < most * threads * kTasksPerThread;
}

bool casts(const Numerics& numerics) {
  return numerics.activations != DType::kF32 || numerics.attention != Numerics::Attention{} ||
         numerics.norm != Numerics::Norm{};
}

int64_t scratch_floats(const AttentionDims& dims, const Seqs& seqs, bool cast) {
  if (!cast) return attention_scratch_floats(dims.head_dim);
  int64_t keys = 0;
  for (int64_t s = 0; s < seqs.batch(); ++s) {
    keys = std::max(keys, seqs.pos[static_cast<size_t>(s)] + seqs.length(s));
  }
  return cast_attention_scratch_floats(dims.head_dim, keys);
}

}  // namespace

Tensor attention(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states) {
  check(qkv, dims, seqs, states);
  const int64_t rows = seqs.rows(), batch = seqs.batch(), d = dims.head_dim;
  Tensor out = ctx.arena.empty({rows, dims.heads * d});
  if (rows == 0) return out;

  ScratchPages pages;
  if (states.empty()) pages = make_pages(ctx, dims, seqs);
  const bool cast = casts(ctx.numerics);
  const bool rotate = dims.inv_freq.defined();
  const int64_t rotary = rotate ? 2 * dims.inv_freq.dim(0) : 0;
  const Tensor cos_sin = rotate ? ctx.arena.empty({rows, rotary}) : Tensor();
  const Tensor scratch = ctx.arena.empty({ctx.stream.pool->threads(), scratch_floats(dims, seqs, cast)});
  const Tensor list = ctx.arena.empty({batch, static_cast<int64_t>(sizeof(AttentionSequence))}, DType::kU8);

  AttentionArgs args = {};
  args.qkv = qkv.f32();
  args.out = out.f32();
  args.q_norm = dims.q_norm.defined() ? dims.q_norm.f32() : nullptr;
  args.k_norm = dims.k_norm.defined() ? dims.k_norm.f32() : nullptr;
  args.inv_freq = rotate ? dims.inv_freq.f32() : nullptr;
  args.cos_sin = rotate ? cos_sin.f32() : nullptr;
  args.norm_eps = dims.norm_eps;
  args.heads = dims.heads;
  args.kv_heads = dims.kv_heads;
  args.head_dim = d;
  args.rotary = rotary;
  args.window = dims.window;
  args.sequences = static_cast<AttentionSequence*>(list.raw());
  args.batch = batch;
  args.scratch = scratch.f32();
  args.scratch_floats = scratch.dim(1);
  list_sequences(dims, seqs, states, pages, static_cast<AttentionSequence*>(list.raw()), &args);
  const Numerics& numerics = ctx.numerics;
  if (cast) {
    kernels::cast_attention(
        ctx.stream, {args, numerics.norm, numerics.activations, numerics.attention.rotary, numerics.attention.scores});
    return out;
  }
  Tensor parts;
  if (shares_spans(args, ctx.stream.pool->threads())) {
    parts = ctx.arena.empty({args.parts.count * args.kv_heads, args.parts.rows, attention_part_floats(d)});
    args.parts.memory = parts.f32();
  }
  kernels::attention(ctx.stream, args);
  return out;
}

}  // namespace carousel::ops
