// SPDX-License-Identifier: Apache-2.0
// Causal grouped-query attention over paged keys and values, with rotary positions and optional q/k norm; over all
// earlier rows or a window of them.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct AttentionDims {
  int64_t heads = 0;      // H query heads
  int64_t kv_heads = 0;   // G, divides H; query head h reads key head h / (H/G)
  int64_t head_dim = 0;   // d
  Tensor q_norm, k_norm;  // [d] f32 RMSNorm weights applied per head before the rotation, or both empty
  float norm_eps = 1e-5f;
  // [R/2] f32 rotary frequencies: the first R <= d elements of a head are rotated (half-split pairing j, j + R/2), the
  // others kept. Empty: no rotation.
  Tensor inv_freq;
  int64_t window = 0;  // a row sees this many last rows, itself among them; 0: all
};

/// softmax(q k^T / sqrt(d)) v, causal, in f32. Keys are taken in spans of kAttentionSpan from position 0, each in one
/// pass over its pages with a running maximum; the results of a row's spans are joined in their order by the logarithms
/// of their sums. So threads may share the keys of one row, and no bit says whether they did.
///   qkv [N, (H + 2G) d] f32, columns q, k, v
///   states per sequence, pages of kPageRows rows: 0: k [G, d, kPageRows] normed and rotated, 1: v [G, kPageRows, d]
///   returns [N, H*d]
/// With a window, pages before it are not read. A row's result depends on its own sequence only, and is the same bit
/// for bit however the sequence was cut. Without states every sequence must start at position 0. N may be 0.
Tensor attention(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states);

/// Operations of the formula over `rows` rows of one sequence after `depth`: two products with every row it sees.
constexpr double attention_flops(const AttentionDims& dims, int64_t rows, int64_t depth) {
  const double seen = static_cast<double>(depth) + (static_cast<double>(rows) + 1) / 2;  // by a row, on average
  const auto window = static_cast<double>(dims.window);
  return 4 * static_cast<double>(rows * dims.heads * dims.head_dim) * (window > 0 && window < seen ? window : seen);
}

/// Query rows one task takes through the pages together.
constexpr int64_t kAttentionRows = 48;
/// Keys whose share of a row is summed by itself.
constexpr int64_t kAttentionSpan = 16 * kPageRows;

struct AttentionSequence {
  int64_t first_row, rows;
  int64_t pos;                // of the first row
  float* const* k_pages;      // [pages] of [G, d, kPageRows]
  float* const* v_pages;      // [pages] of [G, kPageRows, d]
  int64_t first_page_item;    // pages written by the sequences before this one
  int64_t first_block;        // blocks of kAttentionRows query rows (of one key head) of the sequences before this one
  int64_t first_span, spans;  // those with keys that some row sees
  int64_t first_part;         // spans of the blocks before this sequence's
};
/// Where a block's share of one span is kept until the shares are joined: [rows, stride + 16], in a row d sums, from
/// `stride` on the maximum and the total.
struct AttentionParts {
  float* memory = nullptr;  // null: a thread takes all spans of a block
  int64_t rows = 0;         // of the largest block
  int64_t count = 0;        // spans of all blocks of one key head
};
struct AttentionArgs {
  const float* qkv;       // [N, (H + 2G) d]
  float* out;             // [N, H*d]
  const float* q_norm;    // [d] or null
  const float* k_norm;    // [d] or null
  const float* inv_freq;  // [R/2] or null
  float* cos_sin;         // [N, R] to be filled: cosines, then sines, of each row's angles
  float norm_eps;
  int64_t heads, kv_heads, head_dim;
  int64_t rotary;                      // R
  int64_t window;                      // 0: none
  const AttentionSequence* sequences;  // [B]
  int64_t batch, page_items, blocks;   // totals over the batch
  float* scratch;                      // [threads, scratch_floats], 64-byte aligned
  int64_t scratch_floats;              // multiple of 16
  AttentionParts parts;
};
/// Floats of one row of queries or outputs in scratch memory.
constexpr int64_t attention_stride(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
constexpr int64_t attention_part_floats(int64_t head_dim) { return attention_stride(head_dim) + 16; }
/// Floats of scratch memory one thread needs: queries, outputs of a span and scores of its rows; their outputs so far.
constexpr int64_t attention_scratch_floats(int64_t head_dim) {
  return kAttentionRows * (2 * attention_stride(head_dim) + kPageRows + attention_part_floats(head_dim));
}

/// The same as a profile of a narrower implementation has it.
struct CastAttentionArgs {
  AttentionArgs attention;
  Numerics::Norm rule;
  DType activations, rotary, scores;
};
/// Floats of scratch memory one of its threads needs, for `keys` keys at most.
constexpr int64_t cast_attention_scratch_floats(int64_t head_dim, int64_t keys) {
  return 2 * head_dim + (keys + kPageRows) / 16 * 16 + kPageRows;
}

}  // namespace carousel::ops

KERNEL(attention, ops::AttentionArgs);
KERNEL(cast_attention, ops::CastAttentionArgs);
