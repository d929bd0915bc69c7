// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the sLSTM cell, and the layout of the recurrent matrices:
//   [H, panels, 2, dh, kSlstmPiece]: head, panel, gates i f or z o, in, gate % 2 * kSlstmElements + out within the
//   panel
// A panel is kSlstmElements elements of one head, zero-padded: the four gates of the elements side by side, so that a
// tile's sums are all an element needs to advance. It lies in pieces of two gates each.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/slstm/slstm.h"

namespace carousel::ops {

constexpr int64_t kSlstmElements = 16;
constexpr int64_t kSlstmPanel = 4 * kSlstmElements;
constexpr int64_t kSlstmPiece = 2 * kSlstmElements;

/// Panels of one head.
constexpr int64_t slstm_panels(const SlstmDims& dims) { return (dims.dh + kSlstmElements - 1) / kSlstmElements; }

struct SlstmArgs {
  View wx;              // [N, 4*D]
  const float* panels;  // in the layout above
  View out;             // [N, D]
  SlstmDims dims;
  SeqsView seqs;
  float* const* y;  // [B] of [D], as are the next three; all null: zero states, nothing is kept
  float* const* c;
  float* const* n;
  float* const* m;
  float* raw;       // [N, 4*D] the sums of the gates, kept for the backward; null: not kept
  void* workspace;  // scratch memory of slstm_workspace bytes
};

/// d_wx is written. d_recurrent is added to, each element by one chain over the rows.
struct SlstmBackwardArgs {
  View raw;             // [N, 4*D] the sums of the gates
  const float* panels;  // in the layout above
  SlstmDims dims;
  SeqsView seqs;
  View y, c, n, m;     // [B, D] the states before the forward; all null: zeros
  View d;              // [N, D]
  View d_wx;           // [N, 4*D]
  float* d_recurrent;  // [H, dh, 4*dh] as the master lies, or null
  float* const* d_y;   // [B] of [D], as are the next three, replaced in place; all null: none
  float* const* d_c;
  float* const* d_n;
  float* const* d_m;
  void* workspace;  // scratch memory of slstm_backward_workspace bytes
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(slstm, ops::SlstmArgs);
CPU_KERNEL_WITH_WORKSPACE(slstm_backward, ops::SlstmBackwardArgs);
