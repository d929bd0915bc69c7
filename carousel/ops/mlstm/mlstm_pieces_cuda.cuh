// SPDX-License-Identifier: Apache-2.0
// What the tensor cores' walk (mlstm_tensor_cuda.cu) is given for every piece of a sequence: the weights of its rows,
// which depend on the gates alone, and q, k and v rounded to bf16, in rows of their own where that is needed.
#pragma once

#include <cuda_bf16.h>

#include <cmath>

#include "carousel/cuda/async.cuh"
#include "carousel/ops/mlstm/mlstm_tensor_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr int kGateThreads = 256, kGateWarps = kGateThreads / kWarp, kPackThreads = 256;
constexpr int kPackRows = 8;  // rows of a block of pack_pieces

/// Whether the pieces of sequences lie where TensorCall says: none has more than its share of numbers, all its rows are
/// in its pieces once, in order, and only its first and last piece have fewer than 64 rows.
constexpr bool pieces_are_numbered() {
  for (int64_t rows = 0; rows <= 200; ++rows) {
    for (int64_t pos = 0; pos < kChunk; pos += pos < 3 || pos > 60 ? 1 : 19) {
      const SequenceRows seq = {7, rows, pos};
      const int64_t pieces = seq.pieces();
      if (pieces > first_piece(7 + rows, 1) - first_piece(7, 0)) return false;
      int64_t next = seq.first + seq.walk_begin();
      for (int64_t p = 0; p < pieces; ++p) {
        const Piece piece = piece_of(seq, p);
        if (piece.begin != next || piece.count < 1 || piece.count > kChunk) return false;
        if (piece.count < kChunk && p > 0 && p + 1 < pieces) return false;
        next += piece.count;
      }
      if (pieces > 0 && next != seq.first + seq.walk_end()) return false;
    }
  }
  return true;
}
static_assert(pieces_are_numbered());

// ---- gates

/// A lane's two rows of a piece, 2 lane and 2 lane + 1.
struct PairOfRows {
  double b[2];     // running sum of log f
  double u[2];     // i - b; -inf beyond the last row
  double best[2];  // running maximum of u
};

__device__ PairOfRows scan_piece(const MlstmCall& cell, const Piece& piece, int64_t h, int lane) {
  PairOfRows rows;
  float i_pre[2], f_pre[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {  // all loads are on their way before one is waited for
    const int64_t row = piece.begin + min(2 * lane + r, piece.count - 1);
    i_pre[r] = *cell.row(cell.args.i_pre, row, h);
    f_pre[r] = *cell.row(cell.args.f_pre, row, h);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool inside = 2 * lane + r < piece.count;
    rows.b[r] = inside ? double{log_sigmoid<FloatMath>(cell.capped(f_pre[r]))} : 0.0;
    rows.u[r] = inside ? double{cell.capped(i_pre[r])} : -INFINITY;
  }
  double sum = rows.b[0] + rows.b[1];
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double other = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += other;
  }
  const double before = __shfl_up_sync(kAllLanes, sum, 1);
  rows.b[0] += lane > 0 ? before : 0.0;
  rows.b[1] += rows.b[0];
  for (int r = 0; r < 2; ++r) rows.u[r] -= rows.b[r];
  double best = fmax(rows.u[0], rows.u[1]);
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double other = __shfl_up_sync(kAllLanes, best, distance);
    if (lane >= distance) best = fmax(best, other);
  }
  const double best_before = __shfl_up_sync(kAllLanes, best, 1);
  rows.best[0] = lane > 0 ? fmax(rows.u[0], best_before) : rows.u[0];
  rows.best[1] = fmax(rows.u[1], rows.best[0]);
  return rows;
}

/// m after rows with a sum of log f, whose largest i_j - b_j + sum is `own`, where it was `before`. Any m serves, since
/// all weights are formed from the same one: float sums are fast to walk, and a cut between two pieces changes no bit.
__device__ float next_m(float sum, float before, float own) { return fmaxf(sum + before, own); }

/// Writes the arrays of a piece that begins with m. The m after it is that of its last row.
__device__ void write_gates(const TensorCall& call, const Piece& piece, const PairOfRows& rows, float m_start,
                            float* gates) {
  const MlstmCall& cell = call.cell;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, last = piece.count - 1;
  float m[2];
  for (int r = 0; r < 2; ++r) {
    m[r] = next_m(static_cast<float>(rows.b[r]), m_start, static_cast<float>(rows.b[r] + rows.best[r]));
  }
  const float m_next = __shfl_sync(kAllLanes, last % 2 == 0 ? m[0] : m[1], last / 2);
  const double b_end = __shfl_sync(kAllLanes, last % 2 == 0 ? rows.b[0] : rows.b[1], last / 2);
  float out[kPieceArrays][2];
  for (int r = 0; r < 2; ++r) {
    const int t = 2 * lane + r;
    const bool inside = t < piece.count;
    float row_hi = 0, row_lo = 0, col_hi = -INFINITY, col_lo = 0, carry = 0;
    if (inside) {
      ops::mlstm_split((rows.b[r] - double{m[r]}) * kLog2E + call.log2_scale, &row_hi, &row_lo);
      ops::mlstm_split(rows.u[r] * kLog2E, &col_hi, &col_lo);
      carry = expf(static_cast<float>(rows.b[r] + double{m_start} - double{m[r]}));
    }
    out[kRowHi][r] = row_hi;
    out[kRowLo][r] = row_lo;
    out[kColHi][r] = col_hi;
    out[kColLo][r] = col_lo;
    out[kFloor][r] = inside ? expf(-m[r]) : 1.0f;
    out[kCarry][r] = cell.scale_q() * carry;
    const float keep = inside ? expf(static_cast<float>(b_end + rows.u[r] - double{m_next})) : 0.0f;
    out[kKeep][r] = cell.scale_k() * keep;
    if (t == last) gates[kDecayAt] = carry;
  }
#pragma unroll
  for (int i = 0; i < kPieceArrays; ++i) {
    *reinterpret_cast<float2*>(gates + i * kChunk + 2 * lane) = make_float2(out[i][0], out[i][1]);
  }
}

/// A warp per piece of a head: what it does to m. The first block also copies m and n, which later kernels replace
/// while others may not have read them.
__global__ void __launch_bounds__(kGateThreads) scan_gates(TensorCall call) {
  await_inputs();
  const MlstmCall& cell = call.cell;
  const int64_t h = blockIdx.y, s = blockIdx.z, heads = cell.args.dims.heads;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const SequenceRows seq = cell.sequence(s);
  const int64_t pieces = seq.pieces(), p = int64_t{blockIdx.x} * kGateWarps + warp;
  if (blockIdx.x == 0 && pieces > 0) {
    for (int d = static_cast<int>(threadIdx.x); d < call.dk; d += kGateThreads) {
      const bool inside = d < cell.args.dims.dk && cell.keeps();
      call.n_start[(s * heads + h) * call.dk + d] = inside ? cell.n_of(s, h)[d] : 0.0f;
    }
    if (threadIdx.x == 0) call.m_start[s * heads + h] = cell.keeps() ? *cell.m_of(s, h) : 0.0f;
  }
  if (p >= pieces) return;
  const PairOfRows rows = scan_piece(cell, piece_of(seq, p), h, lane);
  const int last = piece_of(seq, p).count - 1;
  if (lane != last / 2) return;
  const int64_t at = (first_piece(seq.first, s) + p) * heads + h;
  const double b_end = rows.b[last % 2];
  call.effect[at] = make_float2(static_cast<float>(b_end), static_cast<float>(b_end + rows.best[last % 2]));
}

/// m from piece to piece: `before` gets that before pieces begin to end, and thread 0 that after the last of them. All
/// threads of the block call this, and pass a barrier before they read.
__device__ float walk_m(const TensorCall& call, int64_t first, int64_t h, int begin, int end, float m, float* before) {
  __shared__ float2 effects[kGateThreads];
  __shared__ float ms[kGateThreads];
  const int64_t heads = call.cell.args.dims.heads;
  const int thread = static_cast<int>(threadIdx.x);
  for (int p0 = 0; p0 < end; p0 += kGateThreads) {
    const int count = min(kGateThreads, end - p0);
    if (thread < count) effects[thread] = call.effect[(first + p0 + thread) * heads + h];
    __syncthreads();
    if (thread == 0) {
#pragma unroll 8
      for (int i = 0; i < count; ++i) {
        ms[i] = m;
        m = next_m(effects[i].x, m, effects[i].y);
      }
    }
    __syncthreads();
    const int which = p0 + thread - begin;
    if (thread < count && which >= 0) before[which] = ms[thread];
  }
  return m;
}

/// A warp per piece of a head writes its arrays. The block finds m before them first.
__global__ void __launch_bounds__(kGateThreads) write_all_gates(TensorCall call) {
  __shared__ float m_before[kGateWarps];
  await_inputs();
  const MlstmCall& cell = call.cell;
  const int64_t h = blockIdx.y, s = blockIdx.z, heads = cell.args.dims.heads;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const SequenceRows seq = cell.sequence(s);
  const int64_t pieces = seq.pieces(), first = first_piece(seq.first, s);
  const int begin = static_cast<int>(blockIdx.x) * kGateWarps,
            end = static_cast<int>(min(int64_t{begin} + kGateWarps, pieces));
  if (begin >= pieces) return;
  const int p = begin + warp;
  const Piece piece = piece_of(seq, p < end ? p : begin);
  const PairOfRows rows = scan_piece(cell, piece, h, lane);
  const float m = walk_m(call, first, h, begin, end, call.m_start[s * heads + h], m_before);
  if (threadIdx.x == 0 && end == pieces && cell.keeps()) *cell.m_of(s, h) = m;
  __syncthreads();
  if (p < end) write_gates(call, piece, rows, m_before[warp], call.gates + ((first + p) * heads + h) * kPieceFloats);
}

// ---- packing

struct Packed {
  __nv_bfloat16* to;  // [.., H * width]
  View from;          // [N, H * of_head]
  int64_t width, of_head;
};

/// Eight consecutive columns of one row.
template <class T>
__device__ void pack_eight(const Packed& packed, int64_t row, int64_t piece_row, bool inside, int64_t column,
                           int64_t heads) {
  const int64_t h = column / packed.width, d = column % packed.width;
  const T* const from = static_cast<const T*>(packed.from.data) + row * packed.from.stride + h * packed.of_head;
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t at = d + 2 * i;
    const float low = inside && at < packed.of_head ? static_cast<float>(from[at]) : 0.0f;
    const float high = inside && at + 1 < packed.of_head ? static_cast<float>(from[at + 1]) : 0.0f;
    pairs[i] = pair_of(low, high);
  }
  *reinterpret_cast<uint4*>(packed.to + piece_row * heads * packed.width + column) =
      make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

/// A block per 8 rows of a piece of a sequence; where whole pieces are not packed, of its first and its last piece.
template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_pieces(TensorCall call) {
  await_inputs();
  const ops::MlstmArgs& args = call.cell.args;
  const int64_t s = blockIdx.z, heads = args.dims.heads;
  const SequenceRows seq = call.cell.sequence(s);
  const int64_t pieces = seq.pieces(), p = call.packs_all || blockIdx.x == 0 ? blockIdx.x : pieces - 1;
  if (p >= pieces || (blockIdx.x > 0 && p == 0)) return;
  const Piece piece = piece_of(seq, p);
  if (!call.packs_all && piece.count == kChunk) return;
  const int64_t packed_piece = call.packs_all ? first_piece(seq.first, s) + p : 2 * s + (p > 0 ? 1 : 0);
  const Packed all[3] = {{call.q, args.q, call.dk, args.dims.dk},
                         {call.k, args.k, call.dk, args.dims.dk},
                         {call.v, args.v, call.dv, args.dims.dv}};
  for (const Packed& packed : all) {
    const int64_t eights = heads * packed.width / 8;
    for (int64_t i = threadIdx.x; i < kPackRows * eights; i += kPackThreads) {
      const int64_t t = blockIdx.y * kPackRows + i / eights;
      pack_eight<T>(packed, piece.begin + t, packed_piece * kChunk + t, t < piece.count, i % eights * 8, heads);
    }
  }
}

}  // namespace
}  // namespace carousel::cuda
