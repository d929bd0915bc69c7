// SPDX-License-Identifier: Apache-2.0
// Chunks of the mLSTM cell on the tensor cores of Hopper, for streams that compute in bf16: what the file beside it
// (mlstm_tensor_cuda.cu) is given. q, k, v and decayed scores are rounded to bf16, C too where q reads it; sums, gates
// and states are f32.
#pragma once

#include "carousel/cpu/workspace.h"
#include "carousel/ops/mlstm/mlstm_batch_cuda.cuh"

namespace carousel::cuda {

/// What the tensor cores are given. Heads are padded with zeros to `dk` and `dv` columns. A piece that is packed has 64
/// rows of its own in q, k and v, zeros beyond its last, so that no copy of a tile reads rows of another sequence.
///
/// Pieces are numbered without a table: piece p of sequence s is offsets[s] / 64 + 2 s + p, since r rows have at most
/// r / 64 + 2 pieces. Where whole pieces are read from the inputs, only the first and the last piece of a sequence may
/// be packed: they are 2 s and 2 s + 1.
struct TensorCall {
  MlstmCall cell;
  int dk, dv;                // padded: 128 or 256; a multiple of 128
  double log2_scale;         // of Dk^-1/2
  bool packs_all;            // else pieces of fewer than 64 rows alone
  __nv_bfloat16 *q, *k, *v;  // [64 packed pieces, H * dk] x 2, [.., H * dv]
  float* gates;              // [pieces, H, kPieceFloats]
  float2* effect;            // [pieces, H] a piece's sum of log f, and its m where nothing is before it
  float* m_start;            // [B, H] m before the first piece
  float* n_start;            // [B, H, dk] n before the first piece
};

/// What gates give a piece of a head; the decay of the whole piece follows the arrays. Logs are to base 2.
enum PieceArray : uint8_t {
  kRowHi,  // b_t - m_t + log2 Dk^-1/2 in two floats: row t reads row j with 2^((RowHi + ColHi) + (RowLo + ColLo))
  kRowLo,
  kColHi,  // i_j - b_j in two floats, -inf beyond the last row
  kColLo,
  kFloor,  // e^-m_t, the least denominator
  kCarry,  // weight of the state before in row t, times the scale of q
  kKeep,   // weight of row j in the next state, times the scale of k; 0 beyond the last row
  kPieceArrays,
};
constexpr int kDecayAt = kPieceArrays * kChunk;
constexpr int kPieceFloats = kDecayAt + 4;  // a multiple of 16 bytes

/// Whether the tensor cores take a call on such a stream, on a GPU that has them.
bool suits_tensor_cores(const Stream& stream, const ops::MlstmArgs& args);

/// Where the memory of a call lies; `bytes` counts from the beginning of `workspace`.
TensorCall lay_out_tensor(const ops::MlstmArgs& args, cpu::Workspace* workspace);

/// Runs the chunks of a call, at most `pieces` of one sequence.
void run_tensor_chunks(const Gpu::Impl& gpu, const TensorCall& call, int64_t pieces);

/// Pieces of `rows` rows, over any cut into `batch` sequences, as TensorCall numbers them.
constexpr int64_t piece_count(int64_t rows, int64_t batch) { return rows / kChunk + 2 * batch; }
__host__ __device__ constexpr int64_t first_piece(int64_t first_row, int64_t s) { return first_row / kChunk + 2 * s; }

}  // namespace carousel::cuda
