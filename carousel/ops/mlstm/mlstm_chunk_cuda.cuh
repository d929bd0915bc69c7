// SPDX-License-Identifier: Apache-2.0
// Chunks of the mLSTM cell on the GPU, in f32 (xLSTM's stabilised chunkwise form, arXiv:2503.14376), in four kernels.
// The stabiliser m depends on the gates alone, so chunk_gates scans them first and replaces m. chunk_weights then has
// the decayed scores of every chunk, all chunks at once. walk_denominators walks n from chunk to chunk and gives every
// row its denominator; walk_values walks C, a block per 32 value columns, which stay in shared memory from the first
// chunk to the last. No sum depends on the batch.
#pragma once

#include "carousel/ops/mlstm/mlstm_batch_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kWalkThreads = 256;
constexpr int kColumns = 32;  // value columns of a block: a lane each
constexpr int kRowsOfWarp = kChunk / (kWalkThreads / kWarp);
constexpr int kTileColumns = 32;  // columns of q or k in shared memory at a time
constexpr int kTileStride = kTileColumns + 4;
constexpr int kWeightStride = kChunk + 4;

/// A warp's inclusive running sum and maximum over pairs of rows, two rows a lane.
__device__ inline void scan_pairs(double (&b)[2], int lane) {
  double before = b[0] + b[1];
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double other = __shfl_up_sync(kAllLanes, before, distance);
    if (lane >= distance) before += other;
  }
  before -= b[0] + b[1];
  b[0] += before;
  b[1] += b[0];
}
__device__ inline void scan_max_pairs(double (&u)[2], int lane) {
  double best = fmax(u[0], u[1]);
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double other = __shfl_up_sync(kAllLanes, best, distance);
    if (lane >= distance) best = fmax(best, other);
  }
  const double before = __shfl_up_sync(kAllLanes, best, 1);
  u[0] = lane > 0 ? fmax(u[0], before) : u[0];
  u[1] = fmax(u[1], u[0]);
}

/// A warp per head of a sequence: the decays of its chunks, one after the other, and m.
__global__ void chunk_gates(MlstmCall call) {
  const int64_t h = blockIdx.x, s = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x);
  const SequenceRows seq = call.sequence(s);
  const int64_t pieces = seq.pieces();
  float m_start = *call.m_of(s, h);
  for (int64_t p = 0; p < pieces; ++p) {
    const Piece piece = piece_of(seq, p);
    double b[2], i[2], u[2];
    for (int r = 0; r < 2; ++r) {
      const int t = 2 * lane + r;
      b[r] = t < piece.count ? double{call.log_forget_gate(piece.begin + t, h)} : 0.0;
      i[r] = t < piece.count ? double{call.input_gate(piece.begin + t, h)} : 0.0;
    }
    scan_pairs(b, lane);
    for (int r = 0; r < 2; ++r) u[r] = 2 * lane + r < piece.count ? i[r] - b[r] : -INFINITY;
    double best[2] = {u[0], u[1]};
    scan_max_pairs(best, lane);
    const int last = piece.count - 1;
    float m_t[2];
    for (int r = 0; r < 2; ++r) m_t[r] = static_cast<float>(b[r] + fmax(static_cast<double>(m_start), best[r]));
    const float m_next = __shfl_sync(kAllLanes, last % 2 == 0 ? m_t[0] : m_t[1], last / 2);
    const double b_end = __shfl_sync(kAllLanes, last % 2 == 0 ? b[0] : b[1], last / 2);
    for (int r = 0; r < 2; ++r) {
      if (2 * lane + r >= piece.count) continue;
      const int64_t at = call.at(piece.begin + 2 * lane + r, h);
      ops::mlstm_split(b[r] - double{m_t[r]}, &call.t_hi[at], &call.t_lo[at]);
      ops::mlstm_split(u[r], &call.u_hi[at], &call.u_lo[at]);
      call.m[at] = m_t[r];
      call.carry[at] = expf(static_cast<float>(b[r] + double{m_start} - double{m_t[r]}));
      call.keep[at] = expf(static_cast<float>(b_end + u[r] - double{m_next}));
    }
    m_start = m_next;
  }
  if (lane == 0 && pieces > 0) *call.m_of(s, h) = m_start;
}

/// Columns d0 to d0 + 32 of the piece's rows of q or k: tile[row][column], zeros beyond the piece and the head.
__device__ inline void load_rows(const MlstmCall& call, const View& view, const Piece& piece, int64_t h, int64_t d0,
                                 float (*tile)[kTileStride]) {
  for (int i = static_cast<int>(threadIdx.x); i < kChunk * kTileColumns; i += kWalkThreads) {
    const int row = i / kTileColumns, d = i % kTileColumns;
    const bool inside = row < piece.count && d0 + d < call.args.dims.dk;
    tile[row][d] = inside ? call.row(view, piece.begin + row, h * call.args.dims.dk)[d0 + d] : 0.0f;
  }
}

/// A block per chunk of a head: q k^T, decayed, and its sums over each row. A thread has four rows and four columns.
__global__ void __launch_bounds__(kWalkThreads) chunk_weights(MlstmCall call) {
  __shared__ float q_tile[kChunk][kTileStride], k_tile[kChunk][kTileStride];
  const int64_t h = blockIdx.y, s = blockIdx.z;
  const SequenceRows seq = call.sequence(s);
  if (int64_t{blockIdx.x} >= seq.pieces()) return;
  const Piece piece = piece_of(seq, blockIdx.x);
  const int t0 = static_cast<int>(threadIdx.x) / 16 * 4, j0 = static_cast<int>(threadIdx.x) % 16;  // columns j0 + 16 j
  float sums[4][4] = {};
  for (int64_t d0 = 0; d0 < call.args.dims.dk; d0 += kTileColumns) {
    load_rows(call, call.args.q, piece, h, d0, q_tile);
    load_rows(call, call.args.k, piece, h, d0, k_tile);
    __syncthreads();
    for (int d = 0; d < kTileColumns; d += 4) {
      float4 k4[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) k4[j] = *reinterpret_cast<const float4*>(&k_tile[j0 + 16 * j][d]);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const float4 q4 = *reinterpret_cast<const float4*>(&q_tile[t0 + t][d]);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[t][j] = fmaf(q4.x, k4[j].x, sums[t][j]);
          sums[t][j] = fmaf(q4.y, k4[j].y, sums[t][j]);
          sums[t][j] = fmaf(q4.z, k4[j].z, sums[t][j]);
          sums[t][j] = fmaf(q4.w, k4[j].w, sums[t][j]);
        }
      }
    }
    __syncthreads();
  }
  const ops::MlstmScales scales = ops::mlstm_scales(call.args.dims);
  const float scale = scales.q * scales.k;
  for (int t = t0; t < t0 + 4; ++t) {
    const int64_t at = call.at(piece.begin + t, h);
    float total = 0;
    for (int j = 0; j < 4; ++j) {
      const int column = j0 + 16 * j;
      float weight = 0;
      if (t < piece.count && column <= t) {
        const int64_t of = call.at(piece.begin + column, h);
        const float log_decay = (call.t_hi[at] + call.u_hi[of]) + (call.t_lo[at] + call.u_lo[of]);
        weight = scale * sums[t - t0][j] * expf(log_decay);
      }
      total += weight;
      if (t < piece.count) call.weights[at * kChunk + column] = weight;
    }
    for (int distance = 8; distance > 0; distance /= 2) total += __shfl_xor_sync(kAllLanes, total, distance);
    if (j0 == 0 && t < piece.count) call.total[at] = total;
  }
}

/// A block per head of a sequence: n [Dk] in shared memory, and the denominators of its rows.
__global__ void __launch_bounds__(kWalkThreads) walk_denominators(MlstmCall call) {
  extern __shared__ float n[];
  const int64_t h = blockIdx.x, s = blockIdx.y, dk = call.args.dims.dk;
  const SequenceRows seq = call.sequence(s);
  const int64_t pieces = seq.pieces();
  if (pieces == 0) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  float* const state = call.n_of(s, h);
  for (int64_t d = threadIdx.x; d < dk; d += kWalkThreads) n[d] = state[d];
  __syncthreads();
  for (int64_t p = 0; p < pieces; ++p) {
    const Piece piece = piece_of(seq, p);
    for (int t = warp; t < piece.count; t += kWalkThreads / kWarp) {
      const float* const q = call.q_row(piece.begin + t, h);
      float dot = 0;
      for (int64_t d = lane; d < dk; d += kWarp) dot = fmaf(q[d], n[d], dot);
      dot = call.scale_q() * warp_sum(dot);
      const int64_t at = call.at(piece.begin + t, h);
      if (lane == 0) call.denominators[at] = call.denominator(fmaf(call.carry[at], dot, call.total[at]), call.m[at]);
    }
    __syncthreads();
    const float decay = call.carry[call.at(piece.begin + piece.count - 1, h)], scale = call.scale_k();
    for (int64_t d = threadIdx.x; d < dk; d += kWalkThreads) {
      float sum = decay * n[d];
      for (int j = 0; j < piece.count; ++j) {
        sum = fmaf(call.keep[call.at(piece.begin + j, h)], scale * call.k_row(piece.begin + j, h)[d], sum);
      }
      n[d] = sum;
    }
    __syncthreads();
  }
  for (int64_t d = threadIdx.x; d < dk; d += kWalkThreads) state[d] = n[d];
}

/// Shared memory of walk_values.
struct WalkTiles {
  float values[kChunk][kColumns];
  float weights[kChunk][kWeightStride];
  float rows[kChunk][kTileStride];  // columns of q, then of k
};
/// Rows of C [Dk, 32] in shared memory: whole tiles of columns of q.
__host__ __device__ inline int64_t padded_dk(int64_t dk) {
  return (dk + kTileColumns - 1) / kTileColumns * kTileColumns;
}
inline size_t walk_bytes(int64_t dk) {
  return sizeof(WalkTiles) + static_cast<size_t>(padded_dk(dk)) * kColumns * sizeof(float);
}

/// h of the block's columns: from C as it was before the chunk, and from the chunk's values.
__device__ inline void walk_outputs(const MlstmCall& call, const Piece& piece, int64_t h, int64_t column,
                                    WalkTiles& tiles, const float* c) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int t0 = warp * kRowsOfWarp;
  float sums[kRowsOfWarp] = {};
  for (int64_t d0 = 0; d0 < call.args.dims.dk; d0 += kTileColumns) {
    __syncthreads();
    load_rows(call, call.args.q, piece, h, d0, tiles.rows);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kTileColumns; d += 4) {
      float c_d[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) c_d[i] = c[(d0 + d + i) * kColumns + lane];
#pragma unroll
      for (int t = 0; t < kRowsOfWarp; ++t) {
        const float4 q4 = *reinterpret_cast<const float4*>(&tiles.rows[t0 + t][d]);
        sums[t] = fmaf(q4.w, c_d[3], fmaf(q4.z, c_d[2], fmaf(q4.y, c_d[1], fmaf(q4.x, c_d[0], sums[t]))));
      }
    }
  }
  for (int t = 0; t < kRowsOfWarp && t0 + t < piece.count; ++t) {
    sums[t] *= call.scale_q() * call.carry[call.at(piece.begin + t0 + t, h)];
  }
  for (int j = 0; j < piece.count; j += 4) {
    float v_j[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v_j[i] = tiles.values[j + i][lane];
#pragma unroll
    for (int t = 0; t < kRowsOfWarp; ++t) {
      const float4 w4 = *reinterpret_cast<const float4*>(&tiles.weights[t0 + t][j]);
      sums[t] = fmaf(w4.w, v_j[3], fmaf(w4.z, v_j[2], fmaf(w4.y, v_j[1], fmaf(w4.x, v_j[0], sums[t]))));
    }
  }
  if (column >= call.args.dims.dv) return;
  for (int t = 0; t < kRowsOfWarp && t0 + t < piece.count; ++t) {
    const int64_t row = piece.begin + t0 + t;
    call.out_row(row, h)[column] = sums[t] / call.denominators[call.at(row, h)];
  }
}

/// C of the block's columns at the chunk's end.
__device__ inline void walk_state(const MlstmCall& call, const Piece& piece, int64_t h, WalkTiles& tiles, float* c) {
  constexpr int kRowsOfC = kTileColumns / (kWalkThreads / kWarp);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const float decay = call.carry[call.at(piece.begin + piece.count - 1, h)], scale = call.scale_k();
  __syncthreads();
  for (int j = warp; j < piece.count; j += kWalkThreads / kWarp) {
    tiles.values[j][lane] *= scale * call.keep[call.at(piece.begin + j, h)];
  }
  for (int64_t d0 = 0; d0 < call.args.dims.dk; d0 += kTileColumns) {
    __syncthreads();
    load_rows(call, call.args.k, piece, h, d0, tiles.rows);
    __syncthreads();
    float* const rows = c + (d0 + warp * kRowsOfC) * kColumns + lane;
    float sums[kRowsOfC];
#pragma unroll
    for (int i = 0; i < kRowsOfC; ++i) sums[i] = decay * rows[i * kColumns];
    for (int j = 0; j < piece.count; ++j) {
      const float4 k4 = *reinterpret_cast<const float4*>(&tiles.rows[j][warp * kRowsOfC]);
      const float v_j = tiles.values[j][lane];
      sums[0] = fmaf(k4.x, v_j, sums[0]);
      sums[1] = fmaf(k4.y, v_j, sums[1]);
      sums[2] = fmaf(k4.z, v_j, sums[2]);
      sums[3] = fmaf(k4.w, v_j, sums[3]);
    }
#pragma unroll
    for (int i = 0; i < kRowsOfC; ++i) rows[i * kColumns] = sums[i];
  }
  __syncthreads();
}

/// A block per 32 value columns of a head of a sequence.
__global__ void __launch_bounds__(kWalkThreads) walk_values(MlstmCall call) {
  extern __shared__ float4 shared[];
  WalkTiles& tiles = *reinterpret_cast<WalkTiles*>(shared);
  float* const c = reinterpret_cast<float*>(&tiles + 1);  // [padded Dk, 32]
  const int64_t h = blockIdx.y, s = blockIdx.z, dk = call.args.dims.dk, dv = call.args.dims.dv;
  const SequenceRows seq = call.sequence(s);
  const int64_t pieces = seq.pieces();
  if (pieces == 0) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.x} * kColumns + lane;
  float* const state = call.c_of(s, h);
  for (int64_t d = warp; d < padded_dk(dk); d += kWalkThreads / kWarp) {
    c[d * kColumns + lane] = d < dk && column < dv ? state[d * dv + column] : 0.0f;
  }
  for (int64_t p = 0; p < pieces; ++p) {
    const Piece piece = piece_of(seq, p);
    for (int j = warp; j < kChunk; j += kWalkThreads / kWarp) {
      const bool inside = j < piece.count && column < dv;
      tiles.values[j][lane] = inside ? call.v_row(piece.begin + j, h)[column] : 0.0f;
    }
    for (int i = static_cast<int>(threadIdx.x); i < kChunk * kChunk; i += kWalkThreads) {
      const int t = i / kChunk, j = i % kChunk;
      const bool inside = t < piece.count;
      tiles.weights[t][j] = inside ? call.weights[call.at(piece.begin + t, h) * kChunk + j] : 0.0f;
    }
    walk_outputs(call, piece, h, column, tiles, c);
    walk_state(call, piece, h, tiles, c);
  }
  for (int64_t d = warp; d < dk; d += kWalkThreads / kWarp) {
    if (column < dv) state[d * dv + column] = c[d * kColumns + lane];
  }
}

}  // namespace
}  // namespace carousel::cuda
