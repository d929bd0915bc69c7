// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of the mLSTM cell, and what a forward keeps for its backward.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/mlstm/mlstm.h"

namespace carousel::ops {

/// C and n are kept before the first row of a sequence, and before every row whose position is a multiple of this. The
/// backward makes those between again.
constexpr int64_t kMlstmBorder = 256;
constexpr int64_t mlstm_borders(int64_t pos, int64_t rows) {
  return rows > 0 ? (pos + rows - 1) / kMlstmBorder - pos / kMlstmBorder + 1 : 0;
}

/// What a forward keeps for its backward; null pointers: nothing.
struct MlstmKept {
  float* c = nullptr;        // [borders of the sequences, one sequence after the other; H, Dk, Dv]
  float* n = nullptr;        // [borders, H, Dk]
  float* m_first = nullptr;  // [B, H] before the first row
  float* m = nullptr;        // [N, H] of every row
  float* q_dot_n = nullptr;  // [N, H] scaled q times n of every row, with its sign
};

struct MlstmArgs {
  View q, k, v, i_pre, f_pre;
  View out;  // [N, H*Dv]
  MlstmDims dims;
  SeqsView seqs;
  float* const* c;    // [B] of [H, Dk, Dv]; this and the next two null: zero states, nothing is kept
  float* const* n;    // [B] of [H, Dk]
  float* const* m;    // [B] of [H]
  float eps_in_max;   // the denominator is max(|q.n| + eps_in_max, e^-m) + eps_outside
  float eps_outside;  // eps where eps_in_max is 0, else 0
  void* workspace;    // scratch memory of mlstm_workspace bytes
  MlstmKept kept = {};
};
/// The gradients of the inputs, from those of h.
struct MlstmBackwardArgs {
  MlstmArgs cell;               // as the forward had it; out, states, eps_in_max and the workspace are not read
  View d_out;                   // [N, H*Dv]
  View d_q, d_k, d_v;           // [N, H*Dk] x 2, [N, H*Dv], written; null: not wanted. The same holds for the next two
  View d_i_pre, d_f_pre;        // [N, H] x 2
  float* const* d_c = nullptr;  // [B] of [H, Dk, Dv]; this and the next two null: the loss does not read the states
  float* const* d_n = nullptr;  // [B] of [H, Dk]
  float* const* d_m = nullptr;  // [B] of [H]
  void* workspace = nullptr;    // scratch memory of mlstm_backward_workspace bytes
};
/// The cell as written in transformers, every operation's result rounded to the type it has there.
struct CastMlstmArgs {
  MlstmArgs cell;
  bool chunks;        // whole chunks of dims.call_chunk rows first; else every row is a step
  DType activations;  // what q, k, v and h are rounded to
  DType states;       // what C, n, m, and a chunk's decays and sums are rounded to
  DType gates;        // what the log-sigmoid is rounded to
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(mlstm, ops::MlstmArgs);
CPU_KERNEL_WITH_WORKSPACE(mlstm_backward, ops::MlstmBackwardArgs);
PLAIN_KERNEL_WITH_WORKSPACE(cast_mlstm, ops::CastMlstmArgs);
