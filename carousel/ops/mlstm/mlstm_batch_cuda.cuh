// SPDX-License-Identifier: Apache-2.0
// Shared by both forms of the mLSTM cell on the GPU: where a sequence's rows and states are, its gates, its
// denominator, and the memory between the kernels of one call.
//
// A sequence is cut at positions that are multiples of 64 into pieces. A piece of one row is a step (mlstm_cuda.cu);
// only the first and the last piece can be one. The pieces between are walked in chunks: in f32 (mlstm_chunk_cuda.cuh),
// or on tensor cores (mlstm_tensor_cuda.cuh). Which rows are which depends on the sequence alone.
#pragma once

#include <cuda_bf16.h>

#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/mlstm/mlstm_formulas.h"

namespace carousel::cuda {

constexpr int kChunk = static_cast<int>(ops::kMlstmChunk);

/// The rows of one sequence: from `first` of the batch on, at positions from `pos` on.
struct SequenceRows {
  int64_t first, rows, pos;

  __host__ __device__ constexpr bool first_is_step() const {
    return rows == 1 || (rows > 1 && pos % kChunk == kChunk - 1);
  }
  __host__ __device__ constexpr bool last_is_step() const { return rows > 1 && (pos + rows - 1) % kChunk == 0; }
  /// Rows of the sequence that are walked in chunks.
  __host__ __device__ constexpr int64_t walk_begin() const { return first_is_step() ? 1 : 0; }
  __host__ __device__ constexpr int64_t walk_end() const { return rows - (last_is_step() ? 1 : 0); }
  __host__ __device__ constexpr int64_t pieces() const {
    const int64_t begin = pos + walk_begin(), end = pos + walk_end();
    return begin < end ? (end - 1) / kChunk - begin / kChunk + 1 : 0;
  }
};

/// Rows begin to begin + count of the batch, which are one chunk; count is 0 beyond the last piece.
struct Piece {
  int64_t begin;
  int count;
};
__host__ __device__ constexpr Piece piece_of(const SequenceRows& seq, int64_t i) {
  const int64_t walk_begin = seq.pos + seq.walk_begin(), walk_end = seq.pos + seq.walk_end();
  const int64_t chunk = walk_begin / kChunk + i;
  const int64_t begin = chunk * kChunk > walk_begin ? chunk * kChunk : walk_begin;
  const int64_t end = (chunk + 1) * kChunk < walk_end ? (chunk + 1) * kChunk : walk_end;
  return {seq.first + begin - seq.pos, static_cast<int>(end > begin ? end - begin : 0)};
}

/// What the kernels of a call share. Arrays [N, H] have the value of row n and head h at n * H + h.
struct MlstmCall {
  ops::MlstmArgs args;
  float *zero_c, *zero_n, *zero_m;  // [B, H, Dk, Dv], [B, H, Dk], [B, H]; null where the caller keeps states
  // The log of the weight of row j in row t is (t_hi[t] + u_hi[j]) + (t_lo[t] + u_lo[j]), where t = b_t - m_t and
  // u = i_j - b_j, and b is the running sum of log f in a chunk. Each is held in two floats, because b may be huge
  // (-1e4 per row) where the sum is not.
  float *t_hi, *t_lo, *u_hi, *u_lo;  // [N, H]
  float* m;                          // [N, H] the running maximum
  float* carry;                      // [N, H] e^(b_t + m - m_t): weight of the state before in row t
  float* keep;                       // [N, H] e^(b_L - b_j + i_j - m_next): weight of row j in the next state
  float* total;                      // [N, H] sum of a row's weights in `weights`
  float* denominators;               // [N, H]
  float* weights;                    // [N, H, 64] decayed scores of row n with the rows of its chunk, zero after itself
  float4* of_heads;   // [B, H] m, the weights of the old state and of the row, and the denominator, of a step
  bool one_row_each;  // whether row n is that of sequence n, a step
  int* arrived;       // [B, H] blocks of the step that runs that have read n and m; zeros between steps

  __device__ SequenceRows sequence(int64_t s) const {
    const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
    return {seq.first_row, seq.rows, seq.pos};
  }
  __device__ int64_t at(int64_t n, int64_t h) const { return n * args.dims.heads + h; }
  __device__ float* c_of(int64_t s, int64_t h) const {
    const int64_t size = args.dims.dk * args.dims.dv;
    return args.c != nullptr ? args.c[s] + h * size : zero_c + (s * args.dims.heads + h) * size;
  }
  __device__ float* n_of(int64_t s, int64_t h) const {
    const int64_t dk = args.dims.dk;
    return args.n != nullptr ? args.n[s] + h * dk : zero_n + (s * args.dims.heads + h) * dk;
  }
  __device__ float* m_of(int64_t s, int64_t h) const {
    return args.m != nullptr ? args.m[s] + h : zero_m + s * args.dims.heads + h;
  }
  /// Whether there are states to go on from: the caller's, or zeros that the kernels of one call hand on.
  __device__ bool keeps() const { return args.c != nullptr || zero_c != nullptr; }
  // T is the element of q, k, v and out.
  template <class T = float>
  __device__ const T* row(const View& view, int64_t n, int64_t first) const {
    return static_cast<const T*>(view.data) + n * view.stride + first;
  }
  template <class T = float>
  __device__ const T* q_row(int64_t n, int64_t h) const {
    return row<T>(args.q, n, h * args.dims.dk);
  }
  template <class T = float>
  __device__ const T* k_row(int64_t n, int64_t h) const {
    return row<T>(args.k, n, h * args.dims.dk);
  }
  template <class T = float>
  __device__ const T* v_row(int64_t n, int64_t h) const {
    return row<T>(args.v, n, h * args.dims.dv);
  }
  template <class T = float>
  __device__ T* out_row(int64_t n, int64_t h) const {
    return static_cast<T*>(args.out.data) + n * args.out.stride + h * args.dims.dv;
  }
  __device__ float scale_q() const { return ops::mlstm_scales(args.dims).q; }
  __device__ float scale_k() const { return ops::mlstm_scales(args.dims).k; }

  __device__ float capped(float gate) const { return ops::mlstm_capped<FloatMath>(gate, args.dims.gate_soft_cap); }
  __device__ float input_gate(int64_t n, int64_t h) const { return capped(*row(args.i_pre, n, h)); }
  __device__ float log_forget_gate(int64_t n, int64_t h) const {
    return log_sigmoid<FloatMath>(capped(*row(args.f_pre, n, h)));
  }
  __device__ float denominator(float q_dot_n, float m_t) const {
    return ops::mlstm_denominator(args, q_dot_n, expf(-m_t));
  }
};

}  // namespace carousel::cuda
