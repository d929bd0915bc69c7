// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the sLSTM cell, and the layout of the recurrent matrices:
//   [H, panels, 2, dh, kSlstmPiece]: head, panel, gates i f or z o, in, gate % 2 * kSlstmElements + out within the
//   panel
// A panel is kSlstmElements elements of one head, zero-padded: the four gates of the elements side by side, so that a
// tile's sums are all an element needs to advance. It lies in pieces of two gates each.
#pragma once

#include "carousel/cpu/kernel.h"
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
  void* workspace;  // scratch memory of slstm_workspace bytes
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(slstm, ops::SlstmArgs);
