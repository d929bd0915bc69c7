// SPDX-License-Identifier: Apache-2.0
// The experts of many slots where a stream computes in bf16, on tensor cores: a warp has 16 units, or outputs, of up to
// 32 slots of one expert. Weights are bf16, or blocks that are widened to it as they are read; x and units are rounded
// to it, sums are f32.
//
// A lane reads 8 neighbouring columns of a row of weights, and the same columns of a slot: no matter which of the
// columns of a product they stand for, as long as both factors agree. So fragments come from memory as they lie.
#pragma once

#include "carousel/cuda/mma.cuh"
#include "carousel/ops/moe/moe_experts_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kMmaUnits = 16, kMmaSlots = 32, kMmaColumns = 32;  // of a warp; columns of a step

/// Columns k to k + 7 of a row as pairs of bf16; k is a multiple of 8.
__device__ inline uint4 eight_of(const void* row, int64_t, int k, __nv_bfloat16) {
  return __ldg(reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(row) + k));
}
/// Four signed bytes of a word, scaled, as two pairs.
__device__ inline uint2 scaled_pairs(uint32_t word, float scale) {
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = static_cast<float>(static_cast<int>(word << (24 - 8 * i)) >> 24) * scale;
  return make_uint2(pair_of(v[0], v[1]), pair_of(v[2], v[3]));
}
__device__ inline uint4 eight_of(const void* row, int64_t cols, int k, Q8Row) {
  const float scale = scale_of(row, Row<Q8Row>::scales_at(cols), k / 32);
  const uint2 words = __ldg(reinterpret_cast<const uint2*>(static_cast<const char*>(row) + k));
  const uint2 low = scaled_pairs(words.x, scale), high = scaled_pairs(words.y, scale);
  return make_uint4(low.x, low.y, high.x, high.y);
}
/// The low halves of a block's 16 bytes are its columns 0 to 15, the high ones 16 to 31.
__device__ inline uint4 eight_of(const void* row, int64_t cols, int k, Q4Row) {
  const float scale = scale_of(row, Row<Q4Row>::scales_at(cols), k / 32);
  const uint2 words = __ldg(reinterpret_cast<const uint2*>(static_cast<const char*>(row) + k / 32 * 16 + k % 16));
  const int shift = k % 32 / 16 * 4;
  const auto numbers = [&](uint32_t word) { return __vsub4(word >> shift & 0x0f0f0f0fu, 0x08080808u); };
  const uint2 low = scaled_pairs(numbers(words.x), scale), high = scaled_pairs(numbers(words.y), scale);
  return make_uint4(low.x, low.y, high.x, high.y);
}

/// Sums of kMmaUnits rows of a matrix, from row `first` on, and kMmaSlots rows of bf16.
struct MmaSums {
  float of[kMmaSlots / 8][4] = {};

  /// Rows beyond `rows` are the last one again.
  template <class T>
  __device__ __forceinline__ void add(const void* matrix, int64_t first, int64_t rows, int64_t cols, int k,
                                      const uint4 (&x)[kMmaSlots / 8]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    uint4 w[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = min(first + lane / 4 + 8 * r, rows - 1);
      w[r] = eight_of(static_cast<const char*>(matrix) + row * Row<T>::bytes(cols), cols, k + lane % 4 * 8, T{});
    }
    const uint32_t low[4] = {w[0].x, w[1].x, w[0].y, w[1].y}, high[4] = {w[0].z, w[1].z, w[0].w, w[1].w};
#pragma unroll
    for (int s = 0; s < kMmaSlots / 8; ++s) {
      multiply_add(of[s], low, x[s].x, x[s].y);
      multiply_add(of[s], high, x[s].z, x[s].w);
    }
  }
  /// Calls f(row, slot, i, j), of[i][j] being the sum of a row of the tile and a slot of it.
  template <class F>
  __device__ static void for_each(const F& f) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < kMmaSlots / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) f(lane / 4 + j / 2 * 8, 8 * i + lane % 4 * 2 + j % 2, i, j);
    }
  }
};

/// A lane's columns of the slots of a tile: slot 8 i + lane / 4 is the i-th.
struct MmaRows {
  const __nv_bfloat16* row[kMmaSlots / 8];

  template <class F>
  __device__ explicit MmaRows(const Tile<kMmaSlots>& tile, const F& row_of) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < kMmaSlots / 8; ++i) row[i] = row_of(tile.slot(8 * i + lane / 4)) + lane % 4 * 8;
  }
  __device__ __forceinline__ void read(int k, uint4 (&x)[kMmaSlots / 8]) const {
#pragma unroll
    for (int i = 0; i < kMmaSlots / 8; ++i) x[i] = *reinterpret_cast<const uint4*>(row[i] + k);
  }
};

template <class F>
void for_narrow(DType dtype, const F& f) {
  if (dtype == DType::kQ8) return f(Q8Row{});
  if (dtype == DType::kQ4) return f(Q4Row{});
  f(__nv_bfloat16{});
}

/// A warp per 16 units.
template <class T>
__global__ void __launch_bounds__(kThreads) mma_units(const __grid_constant__ MoeCall call) {
  await_inputs();
  const int64_t first = (int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp) * kMmaUnits, D = call.args.width;
  const Tile<kMmaSlots> tile(call, static_cast<int>(blockIdx.x));
  if (tile.count == 0 || first >= call.F) return;
  const ExpertPlace& expert = call.experts[tile.expert];
  const MmaRows rows(tile, [&](int slot) { return call.narrow_x + slot / call.args.top_k * D; });
  MmaSums gate, up;
#pragma unroll 2
  for (int k = 0; k < D; k += kMmaColumns) {
    uint4 x[kMmaSlots / 8];
    rows.read(k, x);
    gate.add<T>(expert.gate, first, call.F, D, k, x);
    up.add<T>(expert.up, first, call.F, D, k, x);
  }
  MmaSums::for_each([&](int row, int slot, int i, int j) {
    if (first + row >= call.F || slot >= tile.count) return;
    call.narrow_hidden[int64_t{tile.slot(slot)} * call.F + first + row] =
        __float2bfloat16_rn(ops::silu<FloatMath>(gate.of[i][j]) * up.of[i][j]);
  });
}

/// A warp per 16 outputs, not yet weighted.
template <class T>
__global__ void __launch_bounds__(kThreads) mma_outputs(const __grid_constant__ MoeCall call) {
  await_inputs();
  const int64_t first = (int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp) * kMmaUnits, D = call.args.width;
  const Tile<kMmaSlots> tile(call, static_cast<int>(blockIdx.x));
  if (tile.count == 0 || first >= D) return;
  const MmaRows rows(tile, [&](int slot) { return call.narrow_hidden + int64_t{slot} * call.F; });
  MmaSums sums;
#pragma unroll 2
  for (int k = 0; k < call.F; k += kMmaColumns) {
    uint4 x[kMmaSlots / 8];
    rows.read(k, x);
    sums.add<T>(call.experts[tile.expert].down, first, D, call.F, k, x);
  }
  MmaSums::for_each([&](int row, int slot, int i, int j) {
    if (first + row < D && slot < tile.count) {
      call.outputs[int64_t{tile.slot(slot)} * D + first + row] = sums.of[i][j];
    }
  });
}

}  // namespace
}  // namespace carousel::cuda
