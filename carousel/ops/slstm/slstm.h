// SPDX-License-Identifier: Apache-2.0
// sLSTM: exponential-gated scalar memory with a recurrent matrix per head (xLSTM, arXiv:2405.04517, sec. 2.2).
// slstm.cc packs the recurrent matrices and groups the sequences; slstm_cpu.cc holds the recurrence.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// Elements of a panel of the recurrent matrix, and its columns: the four gates of the elements side by side, so that a
/// tile's sums are all an element needs to advance.
constexpr int64_t kSlstmElements = 16;
constexpr int64_t kSlstmPanel = 4 * kSlstmElements;
/// A panel lies in pieces of two gates each.
constexpr int64_t kSlstmPiece = 2 * kSlstmElements;

/// Sequences that share a pass over R at most: a tile's with AVX-512, three otherwise.
constexpr int64_t kSlstmTileRows = 12;

struct SlstmDims {
  int64_t heads = 0;
  int64_t dh = 0;            // width of a head; D = H * dh
  float f_gate_max = 1e30f;  // the forget gate's pre-activation is clamped from above to this
};
/// Panels of one head.
constexpr int64_t slstm_panels(const SlstmDims& dims) { return (dims.dh + kSlstmElements - 1) / kSlstmElements; }

/// Operations of the formula over `rows` rows of one sequence, elementwise functions as slstm_cpu.cc computes them: exp
/// three times, log, tanh and the rest.
constexpr double slstm_flops(const SlstmDims& dims, int64_t rows) {
  return static_cast<double>(rows * dims.heads * dims.dh) * (8 * static_cast<double>(dims.dh) + 3 * 24 + 20 + 30 + 18);
}

/// The recurrent matrices as the kernel streams them: panels of kSlstmElements elements, zero-padded.
///   recurrent [H, dh, 4*dh] f32: head, in, gate * dh + out, gates i f z o
///   returns [H, panels, 2, dh, kSlstmPiece]: head, panel, gates i f or z o, in, gate % 2 * kSlstmElements + out within
///   the panel
Tensor pack_slstm_recurrent(const Tensor& recurrent, const SlstmDims& dims);

/// The sLSTM cell over every sequence of the batch. Per step and element, with raw_g = wx_g + (R_g y_{t-1})_head:
///   log_f = m + log sigmoid(min(raw_f, f_gate_max));  m' = raw_i where n is 0, else max(raw_i, log_f)
///   i = min(1, e^(raw_i - m'))  f = min(1, e^(log_f - m'))
///   c' = f c + i tanh(raw_z)  n' = f n + i  y' = sigmoid(raw_o) c' / n'
///   wx [N, 4*D] f32, columns i, f, z, o of D = H*dh each, the biases included; packed: of pack_slstm_recurrent
///   states per sequence, f32 [D], from index `first` of the block's on: y c n m; read, then replaced in place
///   returns y [N, D]
/// The zero test of n is per element. All heads and sequences advance together; a row's result depends on its own
/// sequence only, and is the same bit for bit however the sequence was cut. N may be 0.
Tensor slstm(Ctx& ctx, const Tensor& wx, const Tensor& packed, const SlstmDims& dims, const Seqs& seqs,
             LayerStates states, size_t first = 0);

struct SlstmSequence {
  int64_t first_row, rows;
  float *y, *c, *n, *m;  // [D] each
};
struct SlstmArgs {
  const float* wx;      // [N, 4*D]
  const float* packed;  // [H, panels, 2, dh, kSlstmPiece]
  float* out;           // [N, D]
  SlstmDims dims;
  int64_t panels;                  // of one head
  const SlstmSequence* sequences;  // [batch], longest first, all with rows
  int64_t batch;
  // How the threads divide the work; any division gives the same bits. Either whole recurrences, those of a head and
  // of sequences g, g + groups, ... (slices is 0); or all panels of all heads in `slices` parts, in step.
  int64_t groups;
  int64_t slices;
  // Scratch memory.
  float* y;      // [2, H, batch, slstm_y_stride] outputs of the step before, and of this one
  float* cells;  // [H, panels, batch, 3, kSlstmElements] c, n and m between steps
};
/// Odd multiples of a cache line, so that the rows a tile reads do not all fall into the same sets of the cache.
constexpr int64_t slstm_y_stride(const SlstmDims& dims) { return (slstm_panels(dims) | 1) * kSlstmElements; }

}  // namespace carousel::ops

KERNEL(slstm, ops::SlstmArgs);
