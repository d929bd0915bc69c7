// SPDX-License-Identifier: Apache-2.0
// Chunks of the mLSTM cell on tensor cores (the chunkwise form of arXiv:2503.14376), in four kernels. scan_gates and
// write_all_gates have the weights of all rows, which depend on the gates alone. pack_pieces rounds the inputs.
// walk_pieces takes a block per 128 value columns of a head and walks from piece to piece; C stays in its registers
// from the first to the last.
//
// C is held transposed, [64 value columns, dk] per warpgroup, because accumulators rounded to bf16 are the A operand of
// the next product (cuda/wgmma.cuh): h^T = C^T q^T and then h^T += v^T P^T, C^T += (v keep)^T k, and C passes through
// no shared memory.
//
// Warpgroups 0 and 1 are consumers: each owns 64 value columns. Warpgroup 2, the auxiliary one, is a piece ahead with
// the scores P and the denominators. There are two stages of every tile. The protocol, for piece u in stage u % 2:
//  1. q_full, k_full (with the gates) and v_full end a phase when the tiles of a piece are there.
//  2. All 12 warps count up q_done when they have read q of a piece, and k_done when they have read k, v, the gates, P
//     and the denominators. Who counts last starts the copies of piece u + 2 to that stage. Counts of the two stages
//     are apart: a fast warpgroup frees stage 1 before a slow one frees stage 0.
//  3. p_ready ends a phase when the 4 auxiliary warps have written P and 1 / denominator of piece u. They write piece
//     u + 2 after k_full of u + 2, so after every consumer has counted k_done of u.
//  4. n lies in rows 64 and 65 of the k tile (in two bf16 parts), as two more columns of q k^T. The consumers write n
//     after piece u to the other stage, and n_ready ends a phase when all 8 warps have. The auxiliary warps have read
//     n before u from there: every consumer passed p_ready of u - 1, which follows the scores of u - 1. Copies and
//     C^T += (v keep)^T k use rows 0 to 63 alone.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/assert.h"
#include "carousel/cuda/wgmma.cuh"
#include "carousel/ops/mlstm/mlstm_pieces_cuda.cuh"
#include "carousel/ops/mlstm/mlstm_walk_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kValueColumns = 128;  // of a block of walk_pieces

#if defined(CAROUSEL_SM90A)

/// The auxiliary warpgroup's scores of piece u: P [64 t, 64 j] in bf16, and 1 / denominator of each row.
template <int kDk>
__device__ __forceinline__ void score_piece(const Walk<kDk>& walk, int u, const float* gates, float* inverse,
                                            const MlstmCall& cell) {
  using T = Tiles<kDk>;
  const int stage = u & 1, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp % 4, t4 = lane & 3, t0 = warp * 16 + (lane >> 2), t1 = t0 + 8;
  float s[36];  // [64, 72]: columns 64 and 65 are q n
  const uint64_t q = tile_descriptor(walk.q(stage)), k = tile_descriptor(walk.k(stage));
  fence_registers();
#pragma unroll
  for (int i = 0; i < kDk / 16; ++i) {
    multiply_72(s, q + descriptor_step((i / 4) * kTileBytes + i % 4 * 32),
                k + descriptor_step((i / 4) * T::kKTileBytes + i % 4 * 32), i > 0);
  }
  commit();
  const float hi0 = gates[kRowHi * kChunk + t0], hi1 = gates[kRowHi * kChunk + t1];
  const float lo0 = gates[kRowLo * kChunk + t0], lo1 = gates[kRowLo * kChunk + t1];
  await_groups<0>();
  pin(s);
  walk.done_with_q(u);
  float sum0 = 0, sum1 = 0;
  const uint32_t row = warp * 16 + ((lane >> 3) & 1) * 8 + (lane & 7);
#pragma unroll
  for (int n = 0; n < 8; n += 2) {  // columns 8 n to 8 n + 16; those of warp w's rows end with n = 2 w
    uint32_t pairs[4] = {};
    if (n <= 2 * warp) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int j = (n + i) * 8 + 2 * t4;
        const float2 col_hi = *reinterpret_cast<const float2*>(gates + kColHi * kChunk + j);
        const float2 col_lo = *reinterpret_cast<const float2*>(gates + kColLo * kChunk + j);
        const float* const s_n = s + 4 * (n + i);
        float p0 = s_n[0] * exp2_fast((hi0 + col_hi.x) + (lo0 + col_lo.x));
        float p1 = s_n[1] * exp2_fast((hi0 + col_hi.y) + (lo0 + col_lo.y));
        float p2 = s_n[2] * exp2_fast((hi1 + col_hi.x) + (lo1 + col_lo.x));
        float p3 = s_n[3] * exp2_fast((hi1 + col_hi.y) + (lo1 + col_lo.y));
        if (n == 2 * warp) {  // chosen, not multiplied: beyond the row a weight may be infinite
          p0 = j <= t0 ? p0 : 0.0f;
          p1 = j + 1 <= t0 ? p1 : 0.0f;
          p2 = j <= t1 ? p2 : 0.0f;
          p3 = j + 1 <= t1 ? p3 : 0.0f;
        }
        sum0 += p0 + p1;
        sum1 += p2 + p3;
        pairs[2 * i] = pair_of(p0, p1);
        pairs[2 * i + 1] = pair_of(p2, p3);
      }
    }
    store_tiles(walk.p(stage) + swizzled(row, n + (lane >> 4)), pairs);
  }
  // n is in columns 64 and 65, which the lanes with t4 = 0 hold; the others add zeros.
  sum0 += gates[kCarry * kChunk + t0] * (s[32] + s[33]);
  sum1 += gates[kCarry * kChunk + t1] * (s[34] + s[35]);
  for (int distance = 1; distance < 4; distance *= 2) {
    sum0 += __shfl_xor_sync(kAllLanes, sum0, distance);
    sum1 += __shfl_xor_sync(kAllLanes, sum1, distance);
  }
  if (t4 == 0) {
    inverse[t0] = 1.0f / ops::mlstm_denominator(cell.args, sum0, gates[kFloor * kChunk + t0]);
    inverse[t1] = 1.0f / ops::mlstm_denominator(cell.args, sum1, gates[kFloor * kChunk + t1]);
  }
  fence_for_async();
  __syncwarp();
  if (lane == 0) arrive(walk.p_ready(stage));
}

/// A consumer thread's two columns of n, which it sums over 64 / kParts rows of a piece. Lanes that share columns sum
/// different rows, and then add their sums in the same order. Lanes of different parts begin at different rows, so that
/// swizzled rows lie in different banks.
template <int kDk>
struct NColumns {
  static constexpr int kParts = 512 / kDk, kLanes = kWarp / kParts, kRows = kChunk / kParts, kTurn = 8 / kParts;
  using T = Tiles<kDk>;
  float n0, n1;
  int column;  // first of the two
  int part;

  __device__ NColumns() {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    part = lane / kLanes;
    column = (warp * kLanes + lane % kLanes) * 2;
  }
  __device__ uint32_t tile() const { return static_cast<uint32_t>(column / 64) * T::kKTileBytes; }
  __device__ uint32_t place(uint32_t row) const {
    return tile() + swizzled(row, static_cast<uint32_t>(column % 64 / 8)) + static_cast<uint32_t>(column % 8 * 2);
  }
  /// swizzled(r ^ turn, piece of column) is this ^ 0x90 r, since 0x90 r is r << 7 | r << 4.
  __device__ uint32_t turned_place() const {
    const uint32_t turn = part * kTurn;
    return turn << 7 | ((static_cast<uint32_t>(column % 64 / 8) ^ turn) << 4);
  }
  /// n after a piece, from its rows of k.
  __device__ __forceinline__ void advance(const char* k, const float* keep, float decay) {
    float x = 0, y = 0, x_odd = 0, y_odd = 0;  // two chains each: a sum waits for the one before
    // Step r reads row r ^ turn of eight. Row and swizzled piece both are xors with r, so one xor finds the place. The
    // compiler is kept from holding all places in registers, which C needs.
    uint32_t turned = turned_place();
    asm volatile("" : "+r"(turned));
    const char* const k_rows = k + tile() + part * kRows * 128 + column % 8 * 2;
    const float* const keep_rows = keep + part * kRows;
#pragma unroll
    for (int r0 = 0; r0 < kRows; r0 += 8) {
#pragma unroll
      for (int r = 0; r < 8; r += 2) {  // kTurn is even: pairs of rows stay pairs
        const float2 a = *reinterpret_cast<const float2*>(keep_rows + r0 + ((turned >> 7) ^ r));
        const uint32_t first = *reinterpret_cast<const uint32_t*>(k_rows + r0 * 128 + (turned ^ (r * 0x90)));
        const uint32_t second = *reinterpret_cast<const uint32_t*>(k_rows + r0 * 128 + (turned ^ ((r + 1) * 0x90)));
        x = fmaf(low_of(first), a.x, x);
        y = fmaf(high_of(first), a.x, y);
        x_odd = fmaf(low_of(second), a.y, x_odd);
        y_odd = fmaf(high_of(second), a.y, y_odd);
      }
    }
    x += x_odd;
    y += y_odd;
#pragma unroll
    for (int distance = kLanes; distance < kWarp; distance *= 2) {
      x += __shfl_xor_sync(kAllLanes, x, distance);
      y += __shfl_xor_sync(kAllLanes, y, distance);
    }
    n0 = fmaf(n0, decay, x);
    n1 = fmaf(n1, decay, y);
  }
  /// Writes n to rows 64 and 65 of a stage's k: what bf16 holds of it, and what that leaves.
  __device__ __forceinline__ void write(char* k) const {
    const uint32_t hi = pair_of(n0, n1);
    if (part == 0) *reinterpret_cast<uint32_t*>(k + place(64)) = hi;
    if (part == 1) *reinterpret_cast<uint32_t*>(k + place(65)) = pair_of(n0 - low_of(hi), n1 - high_of(hi));
  }
};
constexpr bool xors_find_places() {
  for (uint32_t i = 0; i < 512; ++i) {
    const uint32_t r = i % 8, turn = i / 8 % 8, piece = i / 64;
    if (swizzled(r ^ turn, piece) != ((turn << 7 | (piece ^ turn) << 4) ^ r * 0x90)) return false;
  }
  return true;
}
static_assert(xors_find_places());
static_assert(NColumns<256>::kTurn == 4 && NColumns<128>::kTurn == 2 && NColumns<128>::kRows % 8 == 0);

/// h^T [64, 64] = C^T q^T, and C^T decays. Two steps in depth at a time, whose rounded C has registers of its own.
template <int kDk>
__device__ __forceinline__ void read_state(const Walk<kDk>& walk, int stage, float decay, float (&c)[kDk / 2],
                                           float (&h)[32]) {
  const uint64_t q = tile_descriptor(walk.q(stage));
  uint32_t rounded_c[2][2][4];
#pragma unroll
  for (int pair = 0; pair < kDk / 32; ++pair) {
    if (pair >= 2) await_groups<1>();
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = (2 * pair + step) * 8 + 2 * i;
        rounded_c[pair & 1][step][i] = pair_of(c[at], c[at + 1]);
        c[at] *= decay;
        c[at + 1] *= decay;
      }
    }
    fence_registers();
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int k16 = 2 * pair + step;
      multiply_64(h, rounded_c[pair & 1][step], q + descriptor_step(k16 / 4 * kTileBytes + k16 % 4 * 32), k16 > 0);
    }
    commit();
  }
}

/// A operand of C^T += (v keep)^T k: v of the consumer's columns, read transposed, times keep. Rows beyond the piece
/// are zeros in v, and their keep is 0.
__device__ __forceinline__ void weighted_values(uint32_t v, const float* keep, uint32_t (&out)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp % 4,
            t4 = lane & 3;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const float2 a0 = *reinterpret_cast<const float2*>(keep + step * 16 + 2 * t4);
    const float2 a1 = *reinterpret_cast<const float2*>(keep + step * 16 + 8 + 2 * t4);
    const uint32_t row = step * 16 + (lane >> 4) * 8 + (lane & 7), piece = warp * 2 + ((lane >> 3) & 1);
    uint32_t x[4];
    load_transposed_tiles(v + swizzled(row, piece), x);
    out[step][0] = pair_of(low_of(x[0]) * a0.x, high_of(x[0]) * a0.y);
    out[step][1] = pair_of(low_of(x[1]) * a0.x, high_of(x[1]) * a0.y);
    out[step][2] = pair_of(low_of(x[2]) * a1.x, high_of(x[2]) * a1.y);
    out[step][3] = pair_of(low_of(x[3]) * a1.x, high_of(x[3]) * a1.y);
  }
}

/// Where a consumer's h goes: its 64 columns of a piece's rows, and how much of them there is.
struct OutTile {
  const TileMaps* maps;
  int64_t stride;   // elements to the next row
  int row, column;  // of the matrix h
  int rows, columns;
};

/// f32: straight from registers. Eight lanes write 8 columns of a row, a whole sector.
__device__ __forceinline__ void write_out(float* out, const OutTile& tile, const float* inverse, const float (&h)[32],
                                          char*) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp % 4;
  const int column = warp * 16 + (lane >> 2), t = 2 * (lane & 3);
  float* to = out + (tile.row + t) * tile.stride + tile.column + column;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 scale = *reinterpret_cast<const float2*>(inverse + 8 * n + t);
    if (8 * n + t < tile.rows) {
      if (column < tile.columns) to[0] = h[4 * n] * scale.x;
      if (column + 8 < tile.columns) to[8] = h[4 * n + 2] * scale.x;
    }
    if (8 * n + t + 1 < tile.rows) {
      if (column < tile.columns) to[tile.stride] = h[4 * n + 1] * scale.y;
      if (column + 8 < tile.columns) to[tile.stride + 8] = h[4 * n + 3] * scale.y;
    }
    to += 8 * tile.stride;
  }
}

__device__ __forceinline__ void sync_consumer() {
  if (threadIdx.x < 128) {
    sync_threads_of<1, 128>();
  } else {
    sync_threads_of<2, 128>();
  }
}

/// bf16: through a swizzled tile of shared memory, which is copied whole where all of it is there, and else in pieces
/// of 16 bytes.
__device__ __forceinline__ void write_out(__nv_bfloat16* out, const OutTile& tile, const float* inverse,
                                          const float (&h)[32], char* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp % 4,
            t4 = lane & 3;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const uint32_t address = shared_address(shared);
  if (thread == 0) await_stored_reads();
  sync_consumer();  // the tile has been read for the piece before
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    const float2 a = *reinterpret_cast<const float2*>(inverse + 8 * n + 2 * t4);
    const float2 b = *reinterpret_cast<const float2*>(inverse + 8 * n + 8 + 2 * t4);
    const uint32_t pairs[4] = {
        pair_of(h[4 * n] * a.x, h[4 * n + 1] * a.y), pair_of(h[4 * n + 2] * a.x, h[4 * n + 3] * a.y),
        pair_of(h[4 * n + 4] * b.x, h[4 * n + 5] * b.y), pair_of(h[4 * n + 6] * b.x, h[4 * n + 7] * b.y)};
    const uint32_t row = (n + (lane >> 4)) * 8 + (lane & 7), piece = warp * 2 + ((lane >> 3) & 1);
    store_transposed_tiles(address + swizzled(row, piece), pairs);
  }
  const bool whole = tile.maps->stores && tile.rows == kChunk && tile.columns >= 64;
  if (whole) fence_for_async();
  sync_consumer();
  if (whole) {
    if (thread > 0) return;
    store_tile(&tile.maps->out, tile.column, tile.row, address);
    return commit_stores();
  }
  const int piece = thread % 8;
  if (piece * 8 >= tile.columns) return;  // a multiple of 8: run_tensor_chunks() sees to it
  __nv_bfloat16* const to = out + tile.row * tile.stride + tile.column + piece * 8;
  for (int row = thread / 8; row < tile.rows; row += 16) {
    *reinterpret_cast<uint4*>(to + row * tile.stride) = *reinterpret_cast<const uint4*>(shared + swizzled(row, piece));
  }
}

/// C^T of a consumer thread and C [Dk, Dv] of the head. `column` is its first one.
template <int kDk, class F>
__device__ __forceinline__ void each_of_state(const ops::MlstmDims& dims, int64_t column, const F& f) {
  const int t4 = static_cast<int>(threadIdx.x) & 3;
#pragma unroll
  for (int n = 0; n < kDk / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t d = n * 8 + 2 * t4 + (i & 1), at = column + 8 * (i >> 1);
      if (d < dims.dk && at < dims.dv) f(4 * n + i, d * dims.dv + at);
    }
  }
}

template <int kDk, class Out>
__device__ __forceinline__ void consume(const Walk<kDk>& walk, const TensorCall& call, char* shared, int64_t h,
                                        int64_t s, int group) {
  using T = Tiles<kDk>;
  const ops::MlstmArgs& args = call.cell.args;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, t4 = lane & 3;
  const int warp = static_cast<int>(threadIdx.x) / kWarp % 4;
  const int first_column = walk.plan->v_column - static_cast<int>(h) * call.dv + group * 64;  // of the head
  const int64_t column = first_column + warp * 16 + (lane >> 2);
  float* const state = call.cell.keeps() ? call.cell.c_of(s, h) : nullptr;
  float c[kDk / 2], out[32];
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) c[i] = 0;
  if (state != nullptr) each_of_state<kDk>(args.dims, column, [&](int i, int64_t at) { c[i] = state[at]; });
  NColumns<kDk> n;
  const float* const n_start = call.n_start + (s * args.dims.heads + h) * kDk;
  n.n0 = n_start[n.column];
  n.n1 = n_start[n.column + 1];
  for (int u = 0; u < walk.pieces; ++u) {
    const int stage = u & 1, phase = (u >> 1) & 1;
    const float* const gates = reinterpret_cast<const float*>(shared + T::kGates + stage * T::kGateBytes);
    const float* const inverse = reinterpret_cast<const float*>(shared + T::kInverse) + stage * kChunk;
    await(walk.q_full(stage), phase);
    await(walk.k_full(stage), phase);
    const float decay = gates[kDecayAt];
    n.advance(shared + T::kK + stage * T::kKBytes, gates + kKeep * kChunk, decay);
    n.write(shared + T::kK + (stage ^ 1) * T::kKBytes);
    fence_for_async();
    __syncwarp();
    if (lane == 0) arrive(walk.n_ready(stage));
    await_groups<0>();  // ended below; here the compiler sees it at the head of the loop
    pin(c);
    read_state<kDk>(walk, stage, decay, c, out);
    await(walk.v_full(stage), phase);
    await_groups<0>();
    pin(out);
    walk.done_with_q(u);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 carry = *reinterpret_cast<const float2*>(gates + kCarry * kChunk + i * 8 + 2 * t4);
      out[4 * i] *= carry.x;
      out[4 * i + 1] *= carry.y;
      out[4 * i + 2] *= carry.x;
      out[4 * i + 3] *= carry.y;
    }
    const uint32_t v = walk.v(stage) + group * kTileBytes;
    uint32_t weighted[4][4];
    weighted_values(v, gates + kKeep * kChunk, weighted);
    await(walk.p_ready(stage), phase);
    const uint64_t p_tile = tile_descriptor(walk.p(stage)), v_tile = tile_descriptor(v);
    const uint64_t k_tile = tile_descriptor(walk.k(stage), T::kKTileBytes);
    pin(out);
    pin(c);
    fence_registers();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      multiply_64_transposed(out, v_tile + descriptor_step(i * 2048), p_tile + descriptor_step(i * 32));
    }
    commit();
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_wide(c, weighted[i], k_tile + descriptor_step(i * 2048));
    commit();
    await_groups<1>();
    pin(out);
    const int begin = walk.plan->begin_of(u);
    write_out(static_cast<Out*>(args.out.data),
              {walk.maps, args.out.stride, static_cast<int>(walk.plan->first_row) + begin,
               static_cast<int>(h * args.dims.dv) + first_column, walk.plan->count_of(u),
               static_cast<int>(args.dims.dv) - first_column},
              inverse, out, shared + T::kOut + group * kTileBytes);
    await_groups<0>();
    pin(c);
    walk.done_with_k(u);
  }
  if (threadIdx.x % 128 == 0) await_stores();
  if (state == nullptr) return;
  each_of_state<kDk>(args.dims, column, [&](int i, int64_t at) { state[at] = c[i]; });
  if (walk.plan->v_column != static_cast<int>(h) * call.dv || n.part != 0) return;
  float* const n_end = call.cell.n_of(s, h);
  if (n.column < args.dims.dk) n_end[n.column] = n.n0;
  if (n.column + 1 < args.dims.dk) n_end[n.column + 1] = n.n1;
}

__device__ Plan plan_of(const TensorCall& call, int64_t h, int64_t s) {
  const SequenceRows seq = call.cell.sequence(s);
  const int64_t begin = seq.pos + seq.walk_begin(), end = seq.pos + seq.walk_end(), cell = begin / kChunk * kChunk;
  const int64_t first = first_piece(seq.first, s), heads = call.cell.args.dims.heads;
  Plan plan;
  plan.gates = call.gates + (first * heads + h) * kPieceFloats;
  plan.gates_step = heads * kPieceFloats;
  plan.first_row = seq.first + cell - seq.pos;
  plan.pieces = static_cast<int>(seq.pieces());
  plan.skipped = static_cast<int>(begin - cell);
  plan.rows = static_cast<int>(end - cell);
  plan.packed_piece = call.packs_all ? static_cast<int>(first) : -1;
  plan.ends_packed = static_cast<int>(2 * s);
  plan.q_column = static_cast<int>(h) * call.dk;
  plan.v_column = static_cast<int>(h) * call.dv + static_cast<int>(blockIdx.x) * kValueColumns;
  return plan;
}

#endif  // CAROUSEL_SM90A

template <int kDk, class Out>
__global__ void __launch_bounds__(kWalkers, 1)
    walk_pieces(const __grid_constant__ TileMaps maps, const __grid_constant__ TensorCall call) {
#if defined(CAROUSEL_SM90A)
  using T = Tiles<kDk>;
  extern __shared__ char unaligned[];
  const uint32_t address = shared_address(unaligned), base = (address + 1023) & ~1023u;
  char* const shared = unaligned + (base - address);
  const int64_t h = blockIdx.y, s = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  Plan* const plan = reinterpret_cast<Plan*>(shared + T::kPlan);
  await_inputs();
  if (thread == 0) *plan = plan_of(call, h, s);
  __syncthreads();
  const Walk<kDk> walk = {base, plan->pieces, plan, &maps};
  if (walk.pieces == 0) return;
  if (thread == 0) {
    for (int stage = 0; stage < 2; ++stage) {
      init_barrier(walk.q_full(stage), 1);
      init_barrier(walk.k_full(stage), 1);
      init_barrier(walk.v_full(stage), 1);
      init_barrier(walk.p_ready(stage), 4);
      init_barrier(walk.n_ready(stage), 8);
    }
    for (int i = 0; i < 4; ++i) reinterpret_cast<int*>(shared + T::kCounters)[i] = 0;
    publish_barriers();
  }
  // Rows 64 to 71 of the tiles of k are zero, but for n.
  constexpr int kWords = 8 * 128 / 4;
  for (int i = thread; i < 2 * T::kAcross * kWords; i += kWalkers) {
    reinterpret_cast<uint32_t*>(shared + T::kK + i / kWords * T::kKTileBytes + kTileBytes)[i % kWords] = 0;
  }
  __syncthreads();
  if (thread < 256) {
    NColumns<kDk> n;
    const float* const n_start = call.n_start + (s * call.cell.args.dims.heads + h) * kDk;
    n.n0 = n_start[n.column];
    n.n1 = n_start[n.column + 1];
    n.write(shared + T::kK);
  }
  fence_for_async();
  __syncthreads();
  // Registers are given in whole warpgroups, and 2 consumers + 1 auxiliary must stay within 504: with 512 it hangs.
  const int group = __shfl_sync(kAllLanes, thread / 128, 0);
  if (group == 2) {
    give_registers<kDk == 256 ? 72 : 120>();
    if (thread == 256) {
      for (int u = 0; u < 2 && u < walk.pieces; ++u) {
        walk.load_q(u);
        walk.load_k_v(u);
      }
    }
    __syncwarp();
    for (int u = 0; u < walk.pieces; ++u) {
      const int stage = u & 1, phase = (u >> 1) & 1;
      await(walk.q_full(stage), phase);
      await(walk.k_full(stage), phase);
      if (u > 0) await(walk.n_ready(stage ^ 1), ((u - 1) >> 1) & 1);
      score_piece<kDk>(walk, u, reinterpret_cast<const float*>(shared + T::kGates + stage * T::kGateBytes),
                       reinterpret_cast<float*>(shared + T::kInverse) + stage * kChunk, call.cell);
      walk.done_with_k(u);
    }
  } else {
    take_registers<kDk == 256 ? 216 : 192>();
    consume<kDk, Out>(walk, call, shared, h, s, group);
  }
#endif
}

TileMaps maps_of(const TensorCall& call) {
  const ops::MlstmArgs& args = call.cell.args;
  const int64_t heads = args.dims.heads, batch = args.seqs.batch, rows = args.seqs.rows();
  const int64_t packed = kChunk * (call.packs_all ? piece_count(rows, batch) : 2 * batch);
  TileMaps maps;
  maps.packed_q = tile_map(call.q, packed, heads * call.dk, heads * call.dk);
  maps.packed_k = tile_map(call.k, packed, heads * call.dk, heads * call.dk);
  maps.packed_v = tile_map(call.v, packed, heads * call.dv, heads * call.dv);
  maps.whole_q = maps.packed_q;
  maps.whole_k = maps.packed_k;
  maps.whole_v = maps.packed_v;
  maps.stores = args.out.dtype == DType::kBF16 && fits_tile_map(args.out.data, args.out.stride);
  maps.out = maps.stores ? tile_map(args.out.data, rows, heads * args.dims.dv, args.out.stride) : maps.packed_v;
  if (call.packs_all) return maps;
  maps.whole_q = tile_map(static_cast<const __nv_bfloat16*>(args.q.data), rows, heads * call.dk, args.q.stride);
  maps.whole_k = tile_map(static_cast<const __nv_bfloat16*>(args.k.data), rows, heads * call.dk, args.k.stride);
  maps.whole_v = tile_map(static_cast<const __nv_bfloat16*>(args.v.data), rows, heads * call.dv, args.v.stride);
  return maps;
}

template <int kDk, class Out>
void run_walk(const Gpu::Impl& gpu, const TensorCall& call) {
  const ops::MlstmArgs& args = call.cell.args;
  const dim3 grid(static_cast<unsigned>(call.dv / kValueColumns), static_cast<unsigned>(args.dims.heads),
                  static_cast<unsigned>(args.seqs.batch));
  allow_shared(walk_pieces<kDk, Out>, Tiles<kDk>::kBytes);
  launch_early(gpu, walk_pieces<kDk, Out>, grid, kWalkers, Tiles<kDk>::kBytes, maps_of(call), call);
}

int padded_dk(int64_t dk) { return dk <= 128 ? 128 : 256; }
int padded_dv(int64_t dv) { return static_cast<int>((dv + kValueColumns - 1) / kValueColumns * kValueColumns); }

/// Whether whole pieces can be copied from the inputs as they are.
bool packs_all(const ops::MlstmArgs& args) {
  if (args.q.dtype != DType::kBF16 || args.dims.dk != padded_dk(args.dims.dk) || args.dims.dv % kValueColumns != 0) {
    return true;
  }
  return !fits_tile_map(args.q.data, args.q.stride) || !fits_tile_map(args.k.data, args.k.stride) ||
         !fits_tile_map(args.v.data, args.v.stride);
}

}  // namespace

bool suits_tensor_cores(const Stream& stream, const ops::MlstmArgs& args) {
  constexpr int64_t kMostRows = int64_t{1} << 30;  // rows and columns of tiles are counted in int
  return stream.compute == Compute::kBF16 && args.dims.dk <= 256 && args.seqs.rows() <= kMostRows &&
         args.dims.heads * std::max<int64_t>(padded_dv(args.dims.dv), 256) <= kMostRows &&
         (args.out.dtype == DType::kF32 || args.dims.dv % 8 == 0);
}

TensorCall lay_out_tensor(const ops::MlstmArgs& args, cpu::Workspace* workspace) {
  const int64_t heads = args.dims.heads, batch = args.seqs.batch, pieces = piece_count(args.seqs.rows(), batch);
  TensorCall call = {};
  call.cell.args = args;
  call.dk = padded_dk(args.dims.dk);
  call.dv = padded_dv(args.dims.dv);
  call.packs_all = packs_all(args);
  call.log2_scale = -0.5 * std::log2(static_cast<double>(args.dims.dk));
  const int64_t packed_rows = kChunk * (call.packs_all ? pieces : 2 * batch);
  call.q = workspace->take<__nv_bfloat16>(packed_rows * heads * call.dk);
  call.k = workspace->take<__nv_bfloat16>(packed_rows * heads * call.dk);
  call.v = workspace->take<__nv_bfloat16>(packed_rows * heads * call.dv);
  call.gates = workspace->take<float>(pieces * heads * kPieceFloats);
  call.effect = workspace->take<float2>(pieces * heads);
  call.m_start = workspace->take<float>(batch * heads);
  call.n_start = workspace->take<float>(batch * heads * call.dk);
  return call;
}

void run_tensor_chunks(const Gpu::Impl& gpu, const TensorCall& call, int64_t pieces) {
  const ops::MlstmArgs& args = call.cell.args;
  const auto heads = static_cast<unsigned>(args.dims.heads), batch = static_cast<unsigned>(args.seqs.batch);
  const dim3 of_gates(static_cast<unsigned>(blocks_of(pieces, kGateWarps)), heads, batch);
  const dim3 of_packing(static_cast<unsigned>(call.packs_all ? pieces : 2), kChunk / kPackRows, batch);
  const bool narrow = args.out.dtype == DType::kBF16;
  launch_early(gpu, scan_gates, of_gates, kGateThreads, 0, call);
  launch_early(gpu, write_all_gates, of_gates, kGateThreads, 0, call);
  launch_early(gpu, narrow ? pack_pieces<__nv_bfloat16> : pack_pieces<float>, of_packing, kPackThreads, 0, call);
  if (call.dk == 256) {
    narrow ? run_walk<256, __nv_bfloat16>(gpu, call) : run_walk<256, float>(gpu, call);
  } else {
    narrow ? run_walk<128, __nv_bfloat16>(gpu, call) : run_walk<128, float>(gpu, call);
  }
  launched("mlstm");
}

}  // namespace carousel::cuda
