// SPDX-License-Identifier: Apache-2.0
// Rows of whole fours of elements on the GPU, read and written 16 bytes at a time.
#pragma once

#include <cuda_bf16.h>

#include "carousel/cuda/async.cuh"
#include "carousel/ops/columns.h"

namespace carousel::cuda {

/// Whether rows begin at addresses of 16 bytes; a matrix that is not there agrees.
inline bool has_fours(const View& view) {
  return view.data == nullptr || (reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride % 4 == 0);
}

__device__ inline float4 four_at(const float* row, int64_t j) { return *reinterpret_cast<const float4*>(row + j); }
__device__ inline void put_four(float* row, int64_t j, const float4& v) { *reinterpret_cast<float4*>(row + j) = v; }
__device__ inline void put_four(__nv_bfloat16* row, int64_t j, const float4& v) {
  *reinterpret_cast<uint2*>(row + j) = make_uint2(pair_of(v.x, v.y), pair_of(v.z, v.w));
}

}  // namespace carousel::cuda
