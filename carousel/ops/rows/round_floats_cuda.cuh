// SPDX-License-Identifier: Apache-2.0
// Rounds x to bf16 for the products of tensor cores.
#pragma once

#include "carousel/cuda/launch.cuh"
#include "carousel/ops/rows/fours_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kRoundThreads = 256;

/// A thread per four elements.
__global__ void __launch_bounds__(kRoundThreads) round_fours(const float* x, __nv_bfloat16* out, int64_t count) {
  await_inputs();
  const int64_t i = 4 * (int64_t{blockIdx.x} * kRoundThreads + threadIdx.x);
  if (i < count) put_four(out, i, four_at(x, i));
}

/// out [count] = x [count], rounded; count is a multiple of 4, and both begin at multiples of 16 bytes.
inline void round_floats(const Gpu::Impl& gpu, const float* x, __nv_bfloat16* out, int64_t count) {
  const auto blocks = static_cast<unsigned>(blocks_of(count, 4 * kRoundThreads));
  launch_early(gpu, round_fours, dim3(blocks), kRoundThreads, 0, x, out, count);
}

}  // namespace
}  // namespace carousel::cuda
