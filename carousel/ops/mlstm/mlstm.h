// SPDX-License-Identifier: Apache-2.0
// mLSTM: exponential-gated matrix memory (xLSTM, arXiv:2405.04517, sec. 2.3; chunkwise form: arXiv:2503.14376).
// mlstm.cc checks and has the scratch memory; mlstm_cpu.cc picks step or chunk per piece of a sequence and holds the
// step, mlstm_chunk_cpu.h the chunk.
#pragma once

#include "carousel/cpu/kernel.h"
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

/// The mLSTM cell over every sequence of the batch.
///   q, k [N, H*Dk]  v [N, H*Dv]  i_pre, f_pre [N, H]: f32 columns; gates before soft cap, exp and log-sigmoid
///   states per sequence, f32: 0: C [H, Dk, Dv]  1: n [H, Dk]  2: m [H]; read, then replaced in place
///   returns h [N, H*Dv]
/// Scales q (not k) by Dk^-1/2, so C and n hold unscaled keys, unless told to scale keys. m starts at 0, not -inf: eps
/// is relative to e^m. A piece of one row runs the recurrent step, a longer one the chunkwise form; which one depends
/// on the sequence's own rows and start position only. N may be 0.
Tensor mlstm(Ctx& ctx, View q, View k, View v, View i_pre, View f_pre, const MlstmDims& dims, const Seqs& seqs,
             LayerStates states);

/// Operations of the formula over `rows` rows of one sequence. A row alone is a step, C = f C + k v^T and h = q C; in
/// chunks C is read and advanced by products, and of a chunk's scores and their product with v the causal half counts.
constexpr double mlstm_flops(const MlstmDims& dims, int64_t rows) {
  const auto dk = static_cast<double>(dims.dk), dv = static_cast<double>(dims.dv);
  const auto chunk = static_cast<double>(rows < kMlstmChunk ? rows : kMlstmChunk);
  return static_cast<double>(rows * dims.heads) * (rows == 1 ? 5 * dk * dv : 4 * dk * dv + (chunk + 1) * (dk + dv));
}

struct MlstmSequence {
  int64_t first_row, rows;
  int64_t pos;    // of the first row
  float* c;       // [H, Dk, Dv]
  float* n;       // [H, Dk]
  float* m;       // [H]
  float* n_next;  // [H, Dk] and
  float* m_next;  // [H]: where several tasks share a head, its new n and m wait here until all have read the old ones
};
/// The step of one head of a sequence of one row.
struct MlstmStep {
  float f, i;  // activations of the gates
  int32_t blocks_done;
};
struct MlstmArgs {
  View q, k, v, i_pre, f_pre;
  float* out;  // [N, H*Dv]
  MlstmDims dims;
  const MlstmSequence* sequences;  // [B]
  int64_t batch;
  float* scratch;                 // [threads, scratch_floats], 64-byte aligned
  int64_t scratch_floats;         // multiple of 16
  MlstmStep* steps;               // [B, H]
  float* shares;                  // [B, H, blocks of mlstm_step_rows rows of C, mlstm_share_floats]: of h, last of q.n
  float eps_in_max, eps_outside;  // max(|q.n| + eps_in_max, e^-m) + eps_outside: one is eps, the other 0
};
/// The cell as written in transformers, every operation's result rounded to the type it has there.
struct CastMlstmArgs {
  MlstmArgs cell;
  bool chunks;                       // whole chunks of dims.call_chunk rows first; else every row is a step
  DType activations, states, gates;  // of a chunk's decays and sums: that of the states
};
/// Floats of scratch memory one of its threads needs; `rows` is the longest sequence's.
constexpr int64_t cast_mlstm_scratch_floats(const MlstmDims& dims, int64_t rows) {
  const int64_t chunk = dims.call_chunk < rows ? dims.call_chunk : rows;
  return (4 * chunk + 2 * dims.dk + 3 * dims.dv + 15) / 16 * 16;
}
/// Rows of C that a task of a step advances, about 128 KiB: as many tasks as threads, of equal size, would wait for the
/// slowest. Their number depends on the shape alone, since each has its own share of h.
constexpr int64_t mlstm_step_rows(int64_t dv) {
  constexpr int64_t kFloats = int64_t{1} << 15;
  return dv >= kFloats / 4 ? 4 : kFloats / dv / 4 * 4;
}
constexpr int64_t mlstm_share_floats(int64_t dv) { return (dv / 16 + 1) * 16; }
/// Floats of scratch memory one thread needs: a panel of values, a chunk's queries, keys and scores, C, and n at the
/// end.
constexpr int64_t mlstm_scratch_floats(int64_t dk, int64_t dv) {
  constexpr int64_t kWidestPanel = 64;
  const int64_t columns = (dv + kWidestPanel - 1) / kWidestPanel * kWidestPanel;
  const int64_t q = kMlstmChunk * (dk + 32), k = kMlstmChunk * dk, s = kMlstmChunk * kMlstmChunk;
  const int64_t values = kMlstmChunk * kWidestPanel;
  return (values + q + k + s + (dk + 2) * columns + dk + 64 + 15) / 16 * 16;
}

}  // namespace carousel::ops

KERNEL(mlstm, ops::MlstmArgs);
KERNEL(cast_mlstm, ops::CastMlstmArgs);
