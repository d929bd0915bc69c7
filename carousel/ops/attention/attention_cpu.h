// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of attention.
#pragma once

#include "carousel/core/host_device.h"
#include "carousel/ops/attention/attention.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct AttentionArgs {
  View qkv;               // [N, (H + 2G) d]
  View out;               // [N, H*d]
  const float* q_norm;    // [d] or null
  const float* k_norm;    // [d] or null
  const float* inv_freq;  // [R/2] or null
  float norm_eps;
  int64_t heads, kv_heads, head_dim;
  int64_t rotary;  // R
  int64_t window;  // 0: none
  SeqsView seqs;
  float* const* const* k_pages;  // [B] of [pages] of [G, d, kPageRows]; null: zero states, nothing is kept
  float* const* const* v_pages;  // [B] of [pages] of [G, kPageRows, d]
  void* workspace;               // scratch memory of attention_workspace bytes
  float* log_sums;  // [N, H] logarithm of a row's sum of exponentials, written for the backward; null: not kept
};

/// The first key that the row at `pos` sees; window 0: none.
HOST_DEVICE int64_t first_seen(int64_t pos, int64_t window) {
  return window > 0 && pos + 1 > window ? pos + 1 - window : 0;
}

/// Attention as a profile of a narrower implementation computes it.
struct CastAttentionArgs {
  AttentionArgs attention;
  Numerics::Norm rule;
  DType activations, rotary, scores;
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(attention, ops::AttentionArgs);
PLAIN_KERNEL_WITH_WORKSPACE(cast_attention, ops::CastAttentionArgs);
