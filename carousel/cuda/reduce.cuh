// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over a warp or a block, each in one fixed order.
#pragma once

#include <cuda_runtime.h>

namespace carousel::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// Every lane gets the sum over its warp.
template <class T>
__device__ inline T warp_sum(T value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}
__device__ inline float warp_max(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

/// Every thread gets the sum over `count` warps of its block, from warp `first` on, which it belongs to. All threads of
/// the block call this. `shared` [32] may be written again after a later barrier.
template <class T>
__device__ inline T sum_of_warps(T value, T* shared, int first, int count) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  value = warp_sum(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  return warp_sum(lane < count ? shared[first + lane] : T{});
}
/// Every thread gets the sum over its block of whole warps. `shared` may be written again after this.
template <class T>
__device__ inline T block_sum(T value, T* shared) {
  value = sum_of_warps(value, shared, 0, static_cast<int>(blockDim.x) / kWarp);
  __syncthreads();
  return value;
}
__device__ inline float block_max(float value, float* shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  value = warp_max(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  value = warp_max(lane < static_cast<int>(blockDim.x) / kWarp ? shared[lane] : shared[0]);
  __syncthreads();
  return value;
}

}  // namespace carousel::cuda
