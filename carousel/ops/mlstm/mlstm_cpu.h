// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of the mLSTM cell.
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
  float eps_in_max;   // the denominator is max(|q.n| + eps_in_max, e^-m) + eps_outside
  float eps_outside;  // eps where eps_in_max is 0, else 0
  void* workspace;    // scratch memory of mlstm_workspace bytes
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
PLAIN_KERNEL_WITH_WORKSPACE(cast_mlstm, ops::CastMlstmArgs);
