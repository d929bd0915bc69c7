// SPDX-License-Identifier: Apache-2.0
// What the kernels of the mLSTM cell are called with.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/mlstm/mlstm.h"

namespace carousel::ops {

struct MlstmArgs {
  View q, k, v, i_pre, f_pre;
  View out;  // [N, H*Dv]
  MlstmDims dims;
  SeqsView seqs;
  float* const* c;    // [B] of [H, Dk, Dv]; this and the next two null: zero states, nothing is kept
  float* const* n;    // [B] of [H, Dk]
  float* const* m;    // [B] of [H]
  float eps_in_max;   // of max(|q.n| + eps_in_max, e^-m) + eps_outside
  float eps_outside;  // one of them is eps, the other 0
  void* workspace;    // of mlstm_workspace bytes
};
/// The cell as written in transformers, every operation's result rounded to the type it has there.
struct CastMlstmArgs {
  MlstmArgs cell;
  bool chunks;        // whole chunks of dims.call_chunk rows first; else every row is a step
  DType activations;  // of q, k, v and h
  DType states;       // of C, n, m, and of a chunk's decays and sums
  DType gates;        // of the log-sigmoid
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(mlstm, ops::MlstmArgs);
PLAIN_KERNEL_WITH_WORKSPACE(cast_mlstm, ops::CastMlstmArgs);
