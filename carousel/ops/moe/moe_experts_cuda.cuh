// SPDX-License-Identifier: Apache-2.0
// The experts of a mixture on the GPU. A slot is a row's choice of an expert. With few slots a warp has one unit of a
// slot, or one output of a row. With many, slots are first put in the order of their experts, and a warp has one unit,
// or one output, of up to 8 slots of one expert: the weights are read once for them. Chains over the columns are the
// same either way, so a row has the same bits beside any others.
#pragma once

#include "carousel/cuda/float_math.cuh"
#include "carousel/ops/gate/activations.h"
#include "carousel/ops/linear/linear_stage_cuda.cuh"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/rows/fours_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileSlots = 8;
constexpr int kOrderThreads = 1024;
constexpr int64_t kMostExperts = 512;

/// Where the matrices of an expert lie.
struct ExpertPlace {
  const void *gate, *up, *down;  // [F, D], [F, D], [D, F]
};

/// The table of experts goes to the GPU with the launch, so a call copies nothing and can be recorded.
struct MoeCall {
  ops::MoeExpertsArgs args;
  float* hidden;  // [N * k, F]
  int64_t F;
  bool rounds;  // x and units to bf16, before bf16 weights
  // Null unless takes_tiles():
  float* outputs;                           // [N * k, D] not yet weighted
  int32_t* order;                           // [N * k] slots, by expert
  int32_t* first_slots;                     // [E + 1] where an expert's slots begin in `order`
  int32_t* first_tiles;                     // [E + 1] the tiles before its own
  int tile_slots;                           // most of a tile
  __nv_bfloat16 *narrow_x, *narrow_hidden;  // [N, D], [N * k, F] for tensor cores
  ExpertPlace experts[kMostExperts];

  __device__ const float* row_of(int64_t slot) const {
    return static_cast<const float*>(args.x.data) + slot / args.top_k * args.x.stride;
  }
};

/// One block. Which place a slot has among those of its expert is left to chance: no result depends on it.
__global__ void __launch_bounds__(kOrderThreads) order_slots(const __grid_constant__ MoeCall call) {
  __shared__ int counts[kMostExperts], places[kMostExperts];
  await_inputs();
  const auto thread = static_cast<int>(threadIdx.x), experts = static_cast<int>(call.args.count);
  const auto slots = static_cast<int>(call.args.rows * call.args.top_k);
  for (int e = thread; e < experts; e += kOrderThreads) counts[e] = 0;
  __syncthreads();
  for (int slot = thread; slot < slots; slot += kOrderThreads) atomicAdd(counts + call.args.chosen[slot], 1);
  __syncthreads();
  for (int e = thread; e <= experts; e += kOrderThreads) {
    int before = 0, tiles = 0;
    for (int i = 0; i < e; ++i) before += counts[i], tiles += (counts[i] + call.tile_slots - 1) / call.tile_slots;
    call.first_slots[e] = before;
    call.first_tiles[e] = tiles;
    if (e < experts) places[e] = before;
  }
  __syncthreads();
  for (int slot = thread; slot < slots; slot += kOrderThreads) {
    call.order[atomicAdd(places + call.args.chosen[slot], 1)] = slot;
  }
}

/// The slots of one expert that a block takes together; with kSlots of 1, one slot by its number.
template <int kSlots>
struct Tile {
  int expert = 0, count = 0;  // 0: there is no such tile
  const int32_t* slots = nullptr;
  int only = 0;

  __device__ Tile(const MoeCall& call, int number) {
    if constexpr (kSlots == 1) {
      expert = call.args.chosen[number];
      count = 1;
      only = number;
    } else {
      int low = 0, high = static_cast<int>(call.args.count);  // the last expert whose tiles begin at `number` or before
      while (low + 1 < high) {
        const int middle = (low + high) / 2;
        (call.first_tiles[middle] <= number ? low : high) = middle;
      }
      if (number >= call.first_tiles[call.args.count]) return;
      expert = low;
      const int begin = call.first_slots[low] + (number - call.first_tiles[low]) * kSlots;
      count = min(kSlots, call.first_slots[low + 1] - begin);
      slots = call.order + begin;
    }
  }
  /// Beyond the last one: the first again, which is not written.
  __device__ int slot(int i) const {
    if constexpr (kSlots == 1) return only;
    return slots[i < count ? i : 0];
  }
};

/// The warp's sums of row `row` of a matrix, of `cols` elements, with each x.
template <class T, int kSlots>
__device__ void multiply_row(const void* matrix, int64_t row, int64_t cols, const float* const (&x)[kSlots],
                             bool rounds, float (&sums)[kSlots]) {
  constexpr int kCount = Row<T>::kCount, kAhead = kSlots == 1 ? 4 : 2;
  const char* const from = static_cast<const char*>(matrix) + row * Row<T>::bytes(cols);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (cols % kCount == 0) {
    const auto pieces = static_cast<int>(cols / kCount);
    RowReader<T> reader;
    reader.open(from, cols);
    for (int i0 = lane; i0 < pieces; i0 += kAhead * kWarp) {
      RowPiece<T> next[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) next[a] = reader.read(i0 + a * kWarp, pieces);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int piece = i0 + a * kWarp;
        if (piece >= pieces) break;
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          const auto four = [&](int p) {
            const float4 v = four_at(x[s], piece * kCount + 4 * p);
            return rounds ? make_float4(rounded(v.x), rounded(v.y), rounded(v.z), rounded(v.w)) : v;
          };
          sums[s] = add_piece(next[a], four, sums[s]);
        }
      }
    }
  } else {
    for (int64_t k = lane; k < cols; k += kWarp) {
      const float w = element<T>(from, cols, k);
#pragma unroll
      for (int s = 0; s < kSlots; ++s) sums[s] = fmaf(w, rounds ? rounded(x[s][k]) : x[s][k], sums[s]);
    }
  }
#pragma unroll
  for (int s = 0; s < kSlots; ++s) sums[s] = warp_sum(sums[s]);
}

/// A warp per unit of the slots of a tile: silu(gate x) * up x.
template <class T, int kSlots>
__global__ void __launch_bounds__(kThreads) expert_units(const __grid_constant__ MoeCall call) {
  await_inputs();
  const int64_t f = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp;
  const Tile<kSlots> tile(call, static_cast<int>(blockIdx.x));
  if (tile.count == 0 || f >= call.F) return;
  const ExpertPlace& expert = call.experts[tile.expert];
  const float* x[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) x[s] = call.row_of(tile.slot(s));
  float gate[kSlots] = {}, up[kSlots] = {};
  multiply_row<T>(expert.gate, f, call.args.width, x, call.rounds, gate);
  multiply_row<T>(expert.up, f, call.args.width, x, call.rounds, up);
  if (threadIdx.x % kWarp != 0) return;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s < tile.count) call.hidden[int64_t{tile.slot(s)} * call.F + f] = ops::silu<FloatMath>(gate[s]) * up[s];
  }
}

/// A warp per output of the slots of a tile, not yet weighted.
template <class T>
__global__ void __launch_bounds__(kThreads) slot_outputs(const __grid_constant__ MoeCall call) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp, D = call.args.width;
  const Tile<kTileSlots> tile(call, static_cast<int>(blockIdx.x));
  if (tile.count == 0 || j >= D) return;
  const float* hidden[kTileSlots];
#pragma unroll
  for (int s = 0; s < kTileSlots; ++s) hidden[s] = call.hidden + int64_t{tile.slot(s)} * call.F;
  float sums[kTileSlots] = {};
  multiply_row<T>(call.experts[tile.expert].down, j, call.F, hidden, call.rounds, sums);
  if (threadIdx.x % kWarp != 0) return;
#pragma unroll
  for (int s = 0; s < kTileSlots; ++s) {
    if (s < tile.count) call.outputs[int64_t{tile.slot(s)} * D + j] = sums[s];
  }
}

/// A row adds its experts in their order: a thread per element.
__global__ void __launch_bounds__(kThreads) add_outputs(const __grid_constant__ MoeCall call) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * kThreads + threadIdx.x, n = blockIdx.x, k = call.args.top_k;
  const int64_t D = call.args.width;
  if (j >= D) return;
  const float* const weights = static_cast<const float*>(call.args.weights.data) + n * k;
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) sum = fmaf(weights[i], call.outputs[(n * k + i) * D + j], sum);
  static_cast<float*>(call.args.y.data)[n * call.args.y.stride + j] = sum;
}

/// The same for few slots, by a warp per element.
template <class T>
__global__ void __launch_bounds__(kThreads) expert_outputs(const __grid_constant__ MoeCall call) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp, n = blockIdx.x, k = call.args.top_k;
  if (j >= call.args.width) return;
  const float* const weights = static_cast<const float*>(call.args.weights.data) + n * k;
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    const float* const hidden[1] = {call.hidden + (n * k + i) * call.F};
    float one[1] = {};
    multiply_row<T>(call.experts[call.args.chosen[n * k + i]].down, j, call.F, hidden, call.rounds, one);
    sum = fmaf(weights[i], one[0], sum);
  }
  if (threadIdx.x % kWarp == 0) static_cast<float*>(call.args.y.data)[n * call.args.y.stride + j] = sum;
}

}  // namespace
}  // namespace carousel::cuda
