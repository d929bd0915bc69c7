// SPDX-License-Identifier: Apache-2.0
// The norms on the GPU, a block per row or head: moments are summed in one fixed order, so a row never depends on the
// others.
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/gate/activations_cuda.cuh"
#include "carousel/ops/norm/norm_cpu.h"
#include "carousel/ops/rows/fours_cuda.cuh"

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

/// Fours of elements that a thread of the kernels below holds in registers: all of a row are read at once, and a single
/// row takes one trip to memory.
template <int kFours>
struct HeldRow {
  float4 fours[kFours];

  /// f(four, first element of it) for each four of the thread.
  template <class F>
  __device__ void each(int64_t width, const F& f) {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const int64_t j = 4 * (int64_t{threadIdx.x} + int64_t{i} * blockDim.x);
      if (j < width) f(fours[i], j);
    }
  }
  __device__ Affine statistics(int64_t width, const ops::NormArgs& norm) {
    __shared__ float shared[kWarp];
    if (norm.kind == ops::Norm::Kind::kNone) return {0.0f, 1.0f};
    float mean = 0;
    if (norm.kind == ops::Norm::Kind::kLayer) {
      float sum = 0;
      each(width, [&](const float4& v, int64_t) { sum += (v.x + v.y) + (v.z + v.w); });
      mean = block_sum(sum, shared) / static_cast<float>(width);
    }
    float squares = 0;
    each(width, [&](const float4& v, int64_t) {
      for (const float x : {v.x, v.y, v.z, v.w}) squares = fmaf(x - mean, x - mean, squares);
    });
    return {mean, 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(width) + norm.eps)};
  }
};
__device__ float4 apply(const float4& x, Affine row, const ops::NormArgs& norm, int64_t j) {
  return make_float4(apply(x.x, row, norm, j), apply(x.y, row, norm, j + 1), apply(x.z, row, norm, j + 2),
                     apply(x.w, row, norm, j + 3));
}

template <int kFours>
__global__ void add_and_norm_held(ops::AddNormArgs args) {
  const int64_t n = blockIdx.x;
  HeldRow<kFours> held;
  const float* const x = row_of(args.x, n);
  await_inputs();
  held.each(args.width, [&](float4& v, int64_t j) { v = four_at(x, j); });
  if (args.y.data != nullptr) {
    const float* const y = row_of(args.y, n);
    float* const sum = written_row(args.sum, n);
    held.each(args.width, [&](float4& v, int64_t j) {
      const float4 y4 = four_at(y, j);
      v = make_float4(v.x + y4.x, v.y + y4.y, v.z + y4.z, v.w + y4.w);
      put_four(sum, j, v);
    });
  }
  if (args.norm.kind == ops::Norm::Kind::kNone) return;
  const Affine row = held.statistics(args.width, args.norm);
  float* const out = written_row(args.normed, n);
  held.each(args.width, [&](float4& v, int64_t j) { put_four(out, j, apply(v, row, args.norm, j)); });
}

__device__ float gated(float v, float pre, ops::NormGate::Kind kind) {
  return v * (kind == ops::NormGate::Kind::kSigmoid ? sigmoid(pre) : pre * sigmoid(pre));
}

/// Without a skip; one four per thread.
__global__ void norm_of_heads_held(ops::HeadNormArgs args) {
  const int64_t n = blockIdx.x, first = int64_t{blockIdx.y} * args.dv;
  HeldRow<1> held;
  await_inputs();
  float4 pre = make_float4(0, 0, 0, 0);
  held.each(args.dv, [&](float4& v, int64_t i) {
    v = four_at(row_of(args.h, n), first + i);
    if (args.gate != ops::NormGate::Kind::kNone) pre = four_at(row_of(args.pre, n), first + i);
  });
  const Affine row = held.statistics(args.dv, args.norm);
  held.each(args.dv, [&](float4& v, int64_t i) {
    v = apply(v, row, args.norm, first + i);
    if (args.gate != ops::NormGate::Kind::kNone) {
      v = make_float4(gated(v.x, pre.x, args.gate), gated(v.y, pre.y, args.gate), gated(v.z, pre.z, args.gate),
                      gated(v.w, pre.w, args.gate));
    }
    put_four(written_row(args.out, n), first + i, v);
  });
}

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
    if (args.gate != ops::NormGate::Kind::kNone) v = gated(v, row_of(args.pre, n)[j], args.gate);
    written_row(args.out, n)[j] = v;
  }
}

constexpr int64_t kMostThreads = 1024;

template <int kFours>
void add_norm_held(const Stream& stream, const ops::AddNormArgs& args) {
  const int64_t threads = blocks_of(blocks_of(args.width, 4 * kFours), kWarp) * kWarp;
  launch_early(gpu_of(stream), add_and_norm_held<kFours>, dim3(static_cast<unsigned>(args.rows)),
               static_cast<unsigned>(threads), 0, args);
}

}  // namespace

/// Which kernel runs depends on the width and on where the matrices lie, never on the number of rows.
void add_norm(const Stream& stream, const ops::AddNormArgs& args) {
  const bool fours =
      args.width % 4 == 0 && has_fours(args.x) && has_fours(args.y) && has_fours(args.sum) && has_fours(args.normed);
  if (fours && args.width <= 2 * 4 * kMostThreads) {
    add_norm_held<2>(stream, args);
  } else if (fours && args.width <= 8 * 4 * kMostThreads) {
    add_norm_held<8>(stream, args);
  } else {
    add_and_norm<<<static_cast<unsigned>(args.rows), threads_for(args.width), 0, queue_of(stream)>>>(args);
  }
  launched("add_norm");
}

void head_norm(const Stream& stream, const ops::HeadNormArgs& args) {
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.heads));
  const bool fours = args.dv % 4 == 0 && args.dv <= 4 * kMostThreads && args.skip.data == nullptr &&
                     has_fours(args.h) && has_fours(args.pre) && has_fours(args.out);
  if (fours) {
    const int64_t threads = blocks_of(args.dv / 4, kWarp) * kWarp;
    launch_early(gpu_of(stream), norm_of_heads_held, grid, static_cast<unsigned>(threads), 0, args);
  } else {
    norm_of_heads<<<grid, threads_for(args.dv), 0, queue_of(stream)>>>(args);
  }
  launched("head_norm");
}

}  // namespace carousel::cuda
