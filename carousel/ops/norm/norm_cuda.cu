// SPDX-License-Identifier: Apache-2.0
// The norms on the GPU, a block per row or head: moments are summed in one fixed order, so a row never depends on the
// others.
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/gate/activations_cuda.cuh"
#include "carousel/ops/norm/norm_cpu.h"

namespace carousel::cuda {
namespace {

/// Threads for a row of `width` elements: whole warps, and no more than have an element.
unsigned threads_for(int64_t width) {
  constexpr int64_t kMost = 256;
  const int64_t threads = blocks_of(width, kWarp) * kWarp;
  return static_cast<unsigned>(threads < kMost ? threads : kMost);
}

struct Affine {
  float shift, scale;  // normed = (x - shift) * scale
};

/// The block's statistics of x [width]. The variance is computed from the deviations: E[x^2] - E[x]^2 cancels where the
/// mean is large against the spread.
__device__ Affine statistics(const float* x, int64_t width, const ops::NormArgs& norm) {
  __shared__ float shared[kWarp];
  if (norm.kind == ops::Norm::Kind::kNone) return {0.0f, 1.0f};
  float mean = 0;
  if (norm.kind == ops::Norm::Kind::kLayer) {
    float sum = 0;
    for (int64_t j = threadIdx.x; j < width; j += blockDim.x) sum += x[j];
    mean = block_sum(sum, shared) / static_cast<float>(width);
  }
  float squares = 0;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) squares = fmaf(x[j] - mean, x[j] - mean, squares);
  const float variance = block_sum(squares, shared) / static_cast<float>(width);
  return {mean, 1.0f / sqrtf(variance + norm.eps)};
}

__device__ float apply(float x, Affine row, const ops::NormArgs& norm, int64_t j) {
  float v = (x - row.shift) * row.scale;
  if (norm.weight != nullptr) v *= norm.weight_offset != 0 ? norm.weight[j] + norm.weight_offset : norm.weight[j];
  return norm.bias != nullptr ? v + norm.bias[j] : v;
}

__device__ const float* row_of(const View& view, int64_t n) {
  return static_cast<const float*>(view.data) + n * view.stride;
}
__device__ float* written_row(const View& view, int64_t n) { return static_cast<float*>(view.data) + n * view.stride; }

__global__ void add_and_norm(ops::AddNormArgs args) {
  const int64_t n = blockIdx.x;
  float* const sum = written_row(args.sum, n);
  if (args.y.data != nullptr) {
    const float *const x = row_of(args.x, n), *const y = row_of(args.y, n);
    for (int64_t j = threadIdx.x; j < args.width; j += blockDim.x) sum[j] = x[j] + y[j];
  }
  if (args.norm.kind == ops::Norm::Kind::kNone) return;
  // A thread reads only the elements of the sum that it wrote.
  const Affine row = statistics(sum, args.width, args.norm);
  float* const out = written_row(args.normed, n);
  for (int64_t j = threadIdx.x; j < args.width; j += blockDim.x) out[j] = apply(sum[j], row, args.norm, j);
}

__global__ void norm_of_heads(ops::HeadNormArgs args) {
  const int64_t n = blockIdx.x, first = int64_t{blockIdx.y} * args.dv;
  const float* const x = row_of(args.h, n) + first;
  const Affine row = statistics(x, args.dv, args.norm);
  for (int64_t i = threadIdx.x; i < args.dv; i += blockDim.x) {
    const int64_t j = first + i;
    float v = apply(x[i], row, args.norm, j);
    if (args.skip.data != nullptr) v = fmaf(args.skip_weight[j], row_of(args.skip, n)[j], v);
    if (args.gate != ops::NormGate::Kind::kNone) {
      const float pre = row_of(args.pre, n)[j];
      v *= args.gate == ops::NormGate::Kind::kSigmoid ? sigmoid(pre) : pre * sigmoid(pre);
    }
    written_row(args.out, n)[j] = v;
  }
}

}  // namespace

void add_norm(const Stream& stream, const ops::AddNormArgs& args) {
  add_and_norm<<<static_cast<unsigned>(args.rows), threads_for(args.width), 0, queue_of(stream)>>>(args);
  launched("add_norm");
}

void head_norm(const Stream& stream, const ops::HeadNormArgs& args) {
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.heads));
  norm_of_heads<<<grid, threads_for(args.dv), 0, queue_of(stream)>>>(args);
  launched("head_norm");
}

}  // namespace carousel::cuda
