// SPDX-License-Identifier: Apache-2.0
// The arguments of the gradient of attention.
#pragma once

#include "carousel/ops/attention/attention_cpu.h"

namespace carousel::ops {

/// The pages with rows before a forward that it sees: those of sequence s begin at page first(pos) of its state.
struct KeptPages {
  int64_t window;  // 0: none

  int64_t first(int64_t pos) const { return first_seen(pos, window) / kPageRows; }
  int64_t count(int64_t pos, int64_t rows) const {
    return rows > 0 ? (pos + kPageRows - 1) / kPageRows - first(pos) : 0;
  }
};

/// Copies, for every sequence, the pages of keys and then those of values with rows before this forward.
struct AttentionKeepArgs {
  AttentionArgs attention;
  float* kept;  // [pages, G*d*kPageRows]
};

struct AttentionBackwardArgs {
  AttentionArgs attention;  // as in the forward, with its log_sums and out; pages and workspace are null
  const float* kept;        // as AttentionKeepArgs wrote them; null: every sequence began at 0
  View d_out;               // [N, H*d]
  View d_qkv;               // [N, (H + 2G) d] written; null: not wanted
  float* d_q_norm;          // [d] added to; null: not wanted
  float* d_k_norm;          // [d] added to; null: not wanted
  // The gradients of the pages: of this forward's own rows they are read, to those of rows before they are added.
  float* const* const* d_k_pages;  // [B] of [pages] of [G, d, kPageRows], or null
  float* const* const* d_v_pages;  // [B] of [pages] of [G, kPageRows, d], or null
  void* workspace;
};

}  // namespace carousel::ops

CPU_KERNEL(attention_keep, ops::AttentionKeepArgs);
CPU_KERNEL_WITH_WORKSPACE(attention_backward, ops::AttentionBackwardArgs);
