// SPDX-License-Identifier: Apache-2.0
// mLSTM: exponential-gated matrix memory (xLSTM, arXiv:2405.04517, sec. 2.3; chunkwise form: arXiv:2503.14376).
// mlstm.cc checks and calls the kernel of mlstm_cpu.h; mlstm_cpu.cc gives every sequence its method: mlstm_step_cpu.h
// (one row), or mlstm_walk_cpu.h (many rows, piece by piece), which takes a piece through mlstm_chunk_cpu.h.
#pragma once

#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct MlstmDims {
  int64_t heads = 0;
  int64_t dk = 0;           // query and key width of a head
  int64_t dv = 0;           // value width of a head
  float gate_soft_cap = 0;  // cap * tanh(x / cap) on both gate pre-activations; 0: none
  float eps = 1e-6f;        // added to the denominator
  bool scale_keys = false;  // Dk^-1/2 goes to k, so C and n hold scaled keys (the 2024 xLSTM), not to q
  int64_t call_chunk = 64;  // rows of a chunk where the profile cuts calls as transformers does (Pieces::kCall)
};

/// Rows per chunk. The chunk grid starts at position 0 of the sequence, so cutting a sequence at multiples of it
/// changes no bit.
constexpr int64_t kMlstmChunk = 64;

/// The cell's inputs: columns of one or several matrices.
struct MlstmInputs {
  Columns q, k;          // [N, H*Dk] f32; where the memory is apart also bf16, all three of one type
  Columns v;             // [N, H*Dv] likewise
  Columns i_pre, f_pre;  // [N, H] f32 gates before soft cap, exp and log-sigmoid
};

/// The mLSTM cell over every sequence of the batch.
///   states per sequence, f32: 0: C [H, Dk, Dv]  1: n [H, Dk]  2: m [H]; read, then replaced in place
///   returns h [N, H*Dv], of v's type
/// Scales q (not k) by Dk^-1/2, so C and n hold unscaled keys, unless told to scale keys. m starts at 0, not -inf: eps
/// is relative to e^m. A piece of one row runs the recurrent step, a longer one the chunkwise form; which one depends
/// on the sequence's own rows and start position only. N may be 0.
Tensor mlstm(Ctx& ctx, const MlstmInputs& inputs, const MlstmDims& dims, const Seqs& seqs, LayerStates states);

/// Operations of the formula over `rows` rows of one sequence. One row is a step: C = f C + k v^T and h = q C. In
/// chunks, products read and advance C; the causal half of a chunk's scores, and of their product with v, counts.
constexpr double mlstm_flops(const MlstmDims& dims, int64_t rows) {
  const auto dk = static_cast<double>(dims.dk), dv = static_cast<double>(dims.dv);
  const auto chunk = static_cast<double>(rows < kMlstmChunk ? rows : kMlstmChunk);
  return static_cast<double>(rows * dims.heads) * (rows == 1 ? 5 * dk * dv : 4 * dk * dv + (chunk + 1) * (dk + dv));
}

}  // namespace carousel::ops
