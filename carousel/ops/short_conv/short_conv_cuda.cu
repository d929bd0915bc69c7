// SPDX-License-Identifier: Apache-2.0
// The short convolution on the GPU: a thread per element of the result, then one per column of every state. A gated
// input has the same bits whether it is computed or read back from the state, so cuts change no bit.
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/gate/activations_cuda.cuh"
#include "carousel/ops/short_conv/short_conv_cpu.h"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float element(const View& view, int64_t n, int64_t j) {
  return static_cast<const float*>(view.data)[n * view.stride + j];
}

/// u of column j at time t of a sequence; times before this call are in the state.
__device__ float gated_input(const ops::ShortConvArgs& args, const BatchSequence& seq, const float* state, int64_t t,
                             int64_t j) {
  if (t < 0) return state == nullptr ? 0.0f : state[(t + args.kept) * args.width + j];
  const float x = element(args.x, seq.first_row + t, j);
  return args.b.data == nullptr ? x : element(args.b, seq.first_row + t, j) * x;
}

/// Replaces column j of the state in place, oldest first: row i becomes u at time T-kept+i, which is a new row or a
/// later old one.
__device__ void keep(const ops::ShortConvArgs& args, const BatchSequence& seq, float* state, int64_t j) {
  for (int64_t i = 0; i < args.kept; ++i) {
    state[i * args.width + j] = gated_input(args, seq, state, seq.rows - args.kept + i, j);
  }
}

/// Where a sequence has one row, the thread of a column also keeps it.
__global__ void convolve(ops::ShortConvArgs args) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, n = blockIdx.x, batch = args.seqs.batch;
  if (j >= args.width) return;
  const int64_t s = sequence_of_row(args.seqs.there, batch, n);
  const BatchSequence seq = sequence_at(args.seqs.there, batch, s);
  const float* const state = args.state != nullptr ? args.state[s] : nullptr;
  const int64_t first = n - seq.first_row - (args.taps_count - 1);
  float sum = args.bias != nullptr ? args.bias[j] : 0.0f;
  for (int64_t k = 0; k < args.taps_count; ++k) {
    sum = fmaf(args.taps[k * args.width + j], gated_input(args, seq, state, first + k, j), sum);
  }
  if (args.silu) sum *= sigmoid(sum);
  if (args.c.data != nullptr) sum *= element(args.c, n, j);
  static_cast<float*>(args.out.data)[n * args.out.stride + j] = sum;
  if (seq.rows == 1 && args.state != nullptr) keep(args, seq, args.state[s], j);
}

/// For sequences of more than one row.
__global__ void keep_last_inputs(ops::ShortConvArgs args) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, s = blockIdx.x;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  if (j < args.width && seq.rows > 1) keep(args, seq, args.state[s], j);
}

}  // namespace

void short_conv(const Stream& stream, const ops::ShortConvArgs& args) {
  if (args.dtype != DType::kF32 || args.gates != DType::kF32) not_on_device("short_conv, rounded");
  const auto columns = static_cast<unsigned>(blocks_of(args.width, kThreads));
  const Gpu::Impl& gpu = gpu_of(stream);
  launch_early(gpu, convolve, dim3(static_cast<unsigned>(args.seqs.rows()), columns), kThreads, 0, args);
  bool any_longer = false;
  for (int64_t s = 0; s < args.seqs.batch; ++s) any_longer = any_longer || args.seqs.length(s) > 1;
  if (args.state == nullptr || !any_longer) return;
  launch_early(gpu, keep_last_inputs, dim3(static_cast<unsigned>(args.seqs.batch), columns), kThreads, 0, args);
}

}  // namespace carousel::cuda
