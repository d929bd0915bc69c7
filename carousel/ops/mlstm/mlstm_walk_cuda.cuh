// SPDX-License-Identifier: Apache-2.0
// A block's place in the tensor cores' walk (mlstm_tensor_cuda.cu, whose first lines are the protocol): its shared
// memory, its sequence, and what starts the copies of tiles.
#pragma once

#include "carousel/cuda/async.cuh"
#include "carousel/ops/mlstm/mlstm_tensor_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kWalkers = 384;  // threads of walk_pieces

/// Where tiles are copied from: pieces that are packed, and whole ones; and where those of h go, in bf16.
struct TileMaps {
  CUtensorMap packed_q, packed_k, packed_v;
  CUtensorMap whole_q, whole_k, whole_v;
  CUtensorMap out;
  bool stores;  // else there is no map of h
};

/// Shared memory of walk_pieces, in bytes from a multiple of 1024.
template <int kDk>
struct Tiles {
  static constexpr int kAcross = kDk / 64;      // tiles of q or k side by side
  static constexpr int kKTileBytes = 72 * 128;  // 64 rows of k; n in rows 64 and 65; zeros
  static constexpr int kQBytes = kAcross * kTileBytes, kKBytes = kAcross * kKTileBytes, kVBytes = 2 * kTileBytes;
  static constexpr int kGateBytes = kPieceFloats * static_cast<int>(sizeof(float));
  static constexpr int kQ = 0, kK = kQ + 2 * kQBytes, kV = kK + 2 * kKBytes;  // two stages each
  static constexpr int kP = kV + 2 * kVBytes, kOut = kP + 2 * kTileBytes;     // kOut: a tile of each consumer
  static constexpr int kGates = kOut + 2 * kTileBytes;
  static constexpr int kInverse = kGates + 2 * kGateBytes;     // 1 / denominator [2][64]
  static constexpr int kBarriers = kInverse + 2 * kChunk * 4;  // q_full k_full v_full p_ready n_ready, [2] each
  static constexpr int kCounters = kBarriers + 10 * 8;         // q_done k_done, [2] each
  static constexpr int kPlan = kCounters + 4 * 4;
  static constexpr int kBytes = kPlan + 64 + 1024;  // with what aligning takes
  static_assert(kKTileBytes % 1024 == 0 && kK % 1024 == 0 && kV % 1024 == 0 && kP % 1024 == 0 && kOut % 1024 == 0);
  static_assert(kGates % 16 == 0 && kGateBytes % 16 == 0 && kBarriers % 8 == 0 && kPlan % 8 == 0 &&
                kBytes <= 227 * 1024);
};

#if defined(CAROUSEL_SM90A)

/// What a block knows of its sequence. It lies in shared memory: the consumers have no registers for it.
struct Plan {
  const float* gates;  // of the head and the first piece
  int64_t gates_step;  // floats to the next piece
  int64_t first_row;   // row of the batch at the beginning of the first piece's cell of the grid
  int pieces, skipped,
      rows;                // rows of the first cell before the piece; rows from the first cell's beginning to the end
  int packed_piece;        // of piece 0; -1: whole pieces are not packed
  int ends_packed;         // where pieces of a sequence's ends are packed: 2 s
  int q_column, v_column;  // of the block in q and k, and in v

  __device__ int begin_of(int u) const { return u == 0 ? skipped : u * kChunk; }  // from first_row on
  __device__ int count_of(int u) const { return min((u + 1) * kChunk, rows) - begin_of(u); }
  /// The row of the map where the tiles of piece u begin; sets whether it is the map of packed pieces.
  __device__ int tile_row(int u, bool* packed) const {
    *packed = packed_piece >= 0 || count_of(u) < kChunk;
    if (packed_piece >= 0) return (packed_piece + u) * kChunk;
    return *packed ? (ends_packed + (u > 0 ? 1 : 0)) * kChunk : static_cast<int>(first_row) + u * kChunk;
  }
};

static_assert(sizeof(Plan) <= 64);

/// A block's shared memory, and what starts copies to it.
template <int kDk>
struct Walk {
  using T = Tiles<kDk>;

  uint32_t base;  // of shared memory
  int pieces;
  const Plan* plan;
  const TileMaps* maps;

  __device__ uint32_t q(int stage) const { return base + T::kQ + stage * T::kQBytes; }
  __device__ uint32_t k(int stage) const { return base + T::kK + stage * T::kKBytes; }
  __device__ uint32_t v(int stage) const { return base + T::kV + stage * T::kVBytes; }
  __device__ uint32_t p(int stage) const { return base + T::kP + stage * kTileBytes; }
  __device__ uint32_t barrier(int which, int stage) const { return base + T::kBarriers + (2 * which + stage) * 8; }
  __device__ uint32_t q_full(int stage) const { return barrier(0, stage); }
  __device__ uint32_t k_full(int stage) const { return barrier(1, stage); }
  __device__ uint32_t v_full(int stage) const { return barrier(2, stage); }
  __device__ uint32_t p_ready(int stage) const { return barrier(3, stage); }
  __device__ uint32_t n_ready(int stage) const { return barrier(4, stage); }
  __device__ uint32_t q_done(int stage) const { return base + T::kCounters + stage * 4; }
  __device__ uint32_t k_done(int stage) const { return base + T::kCounters + 8 + stage * 4; }

  __device__ void load_q(int u) const {
    bool packed;
    const int stage = u & 1, row = plan->tile_row(u, &packed);
    const CUtensorMap* const map = packed ? &maps->packed_q : &maps->whole_q;
    const int column = plan->q_column;
    arrive_expecting(q_full(stage), T::kQBytes);
#pragma unroll
    for (int i = 0; i < T::kAcross; ++i) {
      copy_tile(q(stage) + i * kTileBytes, map, column + i * 64, row, q_full(stage));
    }
  }
  __device__ void load_k_v(int u) const {
    bool packed;
    const int stage = u & 1, row = plan->tile_row(u, &packed);
    const CUtensorMap* const k_map = packed ? &maps->packed_k : &maps->whole_k;
    const CUtensorMap* const v_map = packed ? &maps->packed_v : &maps->whole_v;
    const float* const gates = plan->gates + u * plan->gates_step;
    const int column = plan->q_column, v_column = plan->v_column;
    arrive_expecting(k_full(stage), T::kAcross * kTileBytes + T::kGateBytes);
    copy_bytes(base + T::kGates + stage * T::kGateBytes, gates, T::kGateBytes, k_full(stage));
#pragma unroll
    for (int i = 0; i < T::kAcross; ++i) {
      copy_tile(k(stage) + i * T::kKTileBytes, k_map, column + i * 64, row, k_full(stage));
    }
    arrive_expecting(v_full(stage), T::kVBytes);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      copy_tile(v(stage) + i * kTileBytes, v_map, v_column + i * 64, row, v_full(stage));
    }
  }

  /// A warp has read q of piece u. The last of the 12 to say so puts the count back to 0 before it starts the copy;
  /// others count again only after that copy has ended.
  __device__ void done_with_q(int u) const {
    __syncwarp();
    if (threadIdx.x % kWarp != 0 || u + 2 >= pieces || count_up(q_done(u & 1)) != kWalkers / kWarp - 1) return;
    reset_counter(q_done(u & 1));
    load_q(u + 2);
  }
  __device__ void done_with_k(int u) const {
    __syncwarp();
    if (threadIdx.x % kWarp != 0 || u + 2 >= pieces || count_up(k_done(u & 1)) != kWalkers / kWarp - 1) return;
    reset_counter(k_done(u & 1));
    load_k_v(u + 2);
  }
};

#endif  // CAROUSEL_SM90A

}  // namespace
}  // namespace carousel::cuda
