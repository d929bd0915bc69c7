// SPDX-License-Identifier: Apache-2.0
// Gated units of whole fours, as floats or rounded to the bf16 that the next product takes.
#pragma once

#include <cuda_bf16.h>

#include "carousel/cuda/async.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/gate/activations_cuda.cuh"
#include "carousel/ops/gate/gate_cpu.h"

namespace carousel::cuda {
namespace {

constexpr unsigned kUnitThreads = 256;

__device__ inline void put_units(float* out, const float4& v) { *reinterpret_cast<float4*>(out) = v; }
__device__ inline void put_units(__nv_bfloat16* out, const float4& v) {
  *reinterpret_cast<uint2*>(out) = make_uint2(pair_of(v.x, v.y), pair_of(v.z, v.w));
}

/// A thread per four units of a row: activation(gate) * up.
template <class T>
__global__ void unit_fours(View gate_up, int64_t width, ops::Activation activation, T* out, int64_t stride) {
  await_inputs();
  const int64_t n = blockIdx.x, j = 4 * (int64_t{blockIdx.y} * blockDim.x + threadIdx.x);
  if (j >= width) return;
  const auto* const row = static_cast<const float*>(gate_up.data) + n * gate_up.stride + j;
  const float4 gate = *reinterpret_cast<const float4*>(row), up = *reinterpret_cast<const float4*>(row + width);
  put_units(out + n * stride + j,
            make_float4(activate(activation, gate.x) * up.x, activate(activation, gate.y) * up.y,
                        activate(activation, gate.z) * up.z, activate(activation, gate.w) * up.w));
}

inline bool has_fours(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride % 4 == 0;
}

/// gate_up [rows, 2 width] -> out [rows, width]; rows and halves of them begin at 16 bytes.
template <class T>
void run_unit_fours(const Stream& stream, const View& gate_up, int64_t rows, int64_t width, ops::Activation activation,
                    T* out, int64_t stride) {
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(blocks_of(width, 4 * kUnitThreads)));
  launch_early(gpu_of(stream), unit_fours<T>, grid, kUnitThreads, 0, gate_up, width, activation, out, stride);
}

}  // namespace
}  // namespace carousel::cuda
