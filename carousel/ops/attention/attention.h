// SPDX-License-Identifier: Apache-2.0
// Causal grouped-query attention over paged keys and values, with rotary positions and optional q/k norm. A row sees
// all earlier rows, or a window of them.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct AttentionDims {
  int64_t heads = 0;      // H query heads
  int64_t kv_heads = 0;   // G, divides H; query head h reads key head h / (H/G)
  int64_t head_dim = 0;   // d
  Tensor q_norm, k_norm;  // [d] f32 RMSNorm weights applied per head before the rotation, or both empty
  float norm_eps = 1e-5f;
  // [R/2] f32 rotary frequencies: the first R <= d elements of a head are rotated (half-split pairing j, j + R/2), the
  // others are not. Empty: no rotation.
  Tensor inv_freq;
  int64_t window = 0;  // a row sees this many last rows, itself among them; 0: all
};

/// softmax(q k^T / sqrt(d)) v, causal, in f32. Keys are taken in spans of kAttentionSpan from position 0, each in one
/// pass over its pages with a running maximum; the results of a row's spans are joined in their order by the logarithms
/// of their sums. So threads may share the keys of one row without changing a bit. A GPU has shorter spans.
///   qkv [N, (H + 2G) d] f32, columns q, k, v
///   states per sequence, pages of kPageRows rows: 0: k [G, d, kPageRows] normed and rotated, 1: v [G, kPageRows, d]
///   returns [N, H*d]
/// With a window, pages before it are not read. A row's result depends on its own sequence only, and is the same bit
/// for bit however the sequence was cut. Without states every sequence must start at position 0. N may be 0.
Tensor attention(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states);

/// Operations of the formula over `rows` rows of one sequence after `depth`: two products with every row it sees.
constexpr double attention_flops(const AttentionDims& dims, int64_t rows, int64_t depth) {
  const double seen = static_cast<double>(depth) + (static_cast<double>(rows) + 1) / 2;  // rows a row sees, on average
  const auto window = static_cast<double>(dims.window);
  return 4 * static_cast<double>(rows * dims.heads * dims.head_dim) * (window > 0 && window < seen ? window : seen);
}

/// Keys of a span: a row's sums over one span are formed by themselves, then joined.
constexpr int64_t kAttentionSpan = 16 * kPageRows;

}  // namespace carousel::ops
