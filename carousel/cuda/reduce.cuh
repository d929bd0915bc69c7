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

/// Every thread gets the sum over its block of whole warps. `shared` [32] may be used again after the next barrier.
template <class T>
__device__ inline T block_sum(T value, T* shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  value = warp_sum(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? shared[lane] : T{};
  value = warp_sum(value);
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
