// SPDX-License-Identifier: Apache-2.0
// Steps shared by the continuous-time cells on the GPU. A block takes a sequence and walks its rows; a thread takes a
// column of a map, which is one chain over the map's inputs, x first. What a row leaves in the block's buffers is read
// by other threads of the block alone, after a barrier, so the buffers may lie in global memory.
#pragma once

#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/cells/cell_args_cpu.h"
#include "carousel/ops/cells/cell_formulas.h"

namespace carousel::cuda {

constexpr int kCellThreads = 256;

/// sum + z [count] W[first..first + count), of column j.
__device__ inline float map_chain(const ops::CellMapArgs& map, int64_t j, int64_t first, const float* z, int64_t count,
                                  float sum) {
  const float* const w = map.weight + first * map.outputs + j;
  for (int64_t k = 0; k < count; ++k) sum = fmaf(z[k], w[k * map.outputs], sum);
  return sum;
}

/// One sequence of the batch, and where its states are: the caller's, or zeroed buffers.
struct CellRows {
  int64_t first, rows;
  float* h;  // [H]
  float* c;  // [H] the LSTM's memory

  __device__ CellRows(const ops::CellBatch& batch, int64_t s, float* own_h, float* own_c) {
    const BatchSequence seq = sequence_at(batch.seqs.there, batch.seqs.batch, s);
    first = seq.first_row;
    rows = seq.rows;
    h = batch.h != nullptr ? batch.h[s] : own_h;
    c = batch.c != nullptr ? batch.c[s] : own_c;
  }
};

/// One step of the mixed memory, by all threads of the block: h [H] becomes the LSTM's output, c [H] its memory.
/// Ends with a barrier; what is read of h must be there before.
__device__ inline void memory_step(const ops::CellMapArgs& map, const float* x, int64_t inputs, const CellRows& seq,
                                   float* gates) {
  const int64_t units = map.inputs - inputs, stride = map.outputs / 4;
  for (int64_t j = threadIdx.x; j < map.outputs; j += blockDim.x) {
    const float from_x = map_chain(map, j, 0, x, inputs, 0.0f);
    gates[j] = map_chain(map, j, inputs, seq.h, units, from_x) + map.bias[j];
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < units; j += blockDim.x) {
    const auto open =
        ops::memory_gates<FloatMath>({gates[j], gates[stride + j], gates[2 * stride + j], gates[3 * stride + j]});
    const float memory = ops::memory_next(open, seq.c[j]);
    seq.c[j] = memory;
    seq.h[j] = ops::memory_output<FloatMath>(memory, open.o);
  }
  __syncthreads();
}

}  // namespace carousel::cuda
