// SPDX-License-Identifier: Apache-2.0
// Gated units of whole fours, as floats or rounded to the bf16 that the next product takes.
#pragma once

#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/gate/activations.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/rows/fours_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr unsigned kUnitThreads = 256;

/// A thread per four units of a row: activation(gate) * up.
template <class T>
__global__ void unit_fours(View gate_up, int64_t width, ops::Activation activation, T* out, int64_t stride) {
  await_inputs();
  const int64_t n = blockIdx.x, j = 4 * (int64_t{blockIdx.y} * blockDim.x + threadIdx.x);
  if (j >= width) return;
  const auto* const row = static_cast<const float*>(gate_up.data) + n * gate_up.stride + j;
  const float4 gate = four_at(row, 0), up = four_at(row, width);
  const auto unit = [&](float g, float u) { return ops::activate<FloatMath>(activation, g) * u; };
  put_four(out, n * stride + j,
           make_float4(unit(gate.x, up.x), unit(gate.y, up.y), unit(gate.z, up.z), unit(gate.w, up.w)));
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
