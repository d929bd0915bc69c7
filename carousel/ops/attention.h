// SPDX-License-Identifier: Apache-2.0
// Causal grouped-query attention over paged keys and values, with rotary positions and optional q/k norm.
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
  Tensor inv_freq;  // [d/2] f32 rotary frequencies (half-split pairing j, j + d/2)
};

/// softmax(q k^T / sqrt(d)) v, causal, in f32; one pass over the pages with a running maximum.
///   qkv [N, (H + 2G) d] f32, columns q, k, v
///   states per sequence, pages of kPageRows rows: 0: k [G, d, kPageRows] normed and rotated, 1: v [G, kPageRows, d]
///   returns [N, H*d]
/// A row's result depends on its own sequence only, and is the same bit for bit however the sequence was cut.
/// Without states every sequence must start at position 0. N may be 0.
Tensor attention(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const Seqs& seqs, LayerStates states);

}  // namespace carousel::ops
