// SPDX-License-Identifier: Apache-2.0
// Products on the GPU. A call's weights of one type are one launch, each warp or tile finding its own. With few rows of
// x a warp takes an output and streams its row of weights; with many, tiles of 64 rows and 64 outputs go through shared
// memory. Sums are f32, and so are factors, unless the stream computes in bf16: then x is rounded to it, and cuBLASLt
// multiplies where there are many rows.
#include <algorithm>

#include "carousel/cpu/workspace.h"
#include "carousel/cuda/gemm.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/weight/elements_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int64_t kGemvRows = 8;  // up to here weights are streamed
constexpr int kThreads = 256;
constexpr int kTile = 64;   // rows and outputs of a tile
constexpr int kDepth = 16;  // columns of x and w in shared memory at a time

/// The weights of one call that have one type.
struct Parts {
  struct Part {
    const void* w;      // [rows, K]
    const float* bias;  // [rows], or null
    int64_t rows;
    int64_t first_row;   // rows of the parts before it
    int64_t first_tile;  // tiles of the parts before it
    int64_t first_col;   // column of y of its first output
  };
  Part list[ops::kMaxParts];
  int count = 0;
  int64_t rows = 0, tiles = 0;

  void add(const Weight& weight, int64_t first_col) {
    const void* const bias = weight.bias.raw();
    list[count++] = {float_rows(weight, "linear of such a weight"),
                     static_cast<const float*>(bias),
                     weight.rows(),
                     rows,
                     tiles,
                     first_col};
    rows += weight.rows();
    tiles += blocks_of(weight.rows(), kTile);
  }
  __device__ const Part& of_row(int64_t row) const {
    int i = 0;
    while (i + 1 < count && row >= list[i + 1].first_row) ++i;
    return list[i];
  }
  __device__ const Part& of_tile(int64_t tile) const {
    int i = 0;
    while (i + 1 < count && tile >= list[i + 1].first_tile) ++i;
    return list[i];
  }
};

struct Product {
  const float* x;  // [N, K]
  int64_t N, K;
  float* y;  // [N, y_stride]
  int64_t y_stride;
};

template <bool kRounds>
__device__ float rounded_input(float x) {
  return kRounds ? rounded(x) : x;
}

/// A lane loads 16 bytes of a row of weights at once.
template <class T>
struct alignas(16) Elements {
  static constexpr int kCount = 16 / sizeof(T);
  T value[kCount];
};

/// A warp's sums of x_n w over its lanes' columns, for kRows rows of x. The chain of a lane does not depend on kRows.
template <class T, int kRows, bool kRounds>
__device__ void stream_row(const T* w, const Product& product, float (&sums)[kRows]) {
  constexpr int kCount = Elements<T>::kCount;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t K = product.K;
  if (K % kCount != 0) {
    for (int64_t k = lane; k < K; k += kWarp) {
      const float w_k = widened(w[k]);
      for (int n = 0; n < kRows; ++n) sums[n] = fmaf(rounded_input<kRounds>(product.x[n * K + k]), w_k, sums[n]);
    }
    return;
  }
#pragma unroll 4
  for (int64_t k = int64_t{lane} * kCount; k < K; k += int64_t{kWarp} * kCount) {
    const Elements<T> w_k = *reinterpret_cast<const Elements<T>*>(w + k);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const auto* const x_k = reinterpret_cast<const float4*>(product.x + n * K + k);
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        const float4 x4 = x_k[i];
        sums[n] = fmaf(rounded_input<kRounds>(x4.x), widened(w_k.value[4 * i]), sums[n]);
        sums[n] = fmaf(rounded_input<kRounds>(x4.y), widened(w_k.value[4 * i + 1]), sums[n]);
        sums[n] = fmaf(rounded_input<kRounds>(x4.z), widened(w_k.value[4 * i + 2]), sums[n]);
        sums[n] = fmaf(rounded_input<kRounds>(x4.w), widened(w_k.value[4 * i + 3]), sums[n]);
      }
    }
  }
}

template <class T, int kRows, bool kRounds>
__global__ void stream_weights(Parts parts, Product product) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  if (row >= parts.rows) return;
  const Parts::Part& part = parts.of_row(row);
  const int64_t m = row - part.first_row;
  float sums[kRows] = {};
  stream_row<T, kRows, kRounds>(static_cast<const T*>(part.w) + m * product.K, product, sums);
#pragma unroll
  for (int n = 0; n < kRows; ++n) sums[n] = warp_sum(sums[n]);
  if (threadIdx.x % kWarp != 0) return;
  const float bias = part.bias != nullptr ? part.bias[m] : 0.0f;
  for (int n = 0; n < kRows; ++n) product.y[n * product.y_stride + part.first_col + m] = sums[n] + bias;
}

/// A tile of x or w in shared memory: column k of the rows that follow `first`, zero beyond the matrix.
template <class T, bool kRounds>
__device__ void load_tile(const T* matrix, int64_t rows, int64_t first, int64_t K, int64_t k0,
                          float (*tile)[kTile + 4]) {
  const int row = static_cast<int>(threadIdx.x) / 4, k = static_cast<int>(threadIdx.x) % 4 * 4;
  const T* const from = matrix + (first + row) * K + k0 + k;
  for (int i = 0; i < 4; ++i) {
    const bool inside = first + row < rows && k0 + k + i < K;
    tile[k + i][row] = inside ? rounded_input<kRounds>(widened(from[i])) : 0.0f;
  }
}

/// y of a tile. Every output is one chain over k, so it does not depend on the other rows.
template <class T, bool kRounds>
__global__ void __launch_bounds__(kThreads) multiply_tiles(Parts parts, Product product) {
  __shared__ float x_tile[kDepth][kTile + 4], w_tile[kDepth][kTile + 4];
  const Parts::Part& part = parts.of_tile(blockIdx.x);
  const int64_t first_m = (blockIdx.x - part.first_tile) * kTile, first_n = int64_t{blockIdx.y} * kTile;
  const int n = static_cast<int>(threadIdx.x) / 16 * 4, m = static_cast<int>(threadIdx.x) % 16 * 4;
  float sums[4][4] = {};
  for (int64_t k0 = 0; k0 < product.K; k0 += kDepth) {
    load_tile<float, kRounds>(product.x, product.N, first_n, product.K, k0, x_tile);
    load_tile<T, false>(static_cast<const T*>(part.w), part.rows, first_m, product.K, k0, w_tile);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float4 x4 = *reinterpret_cast<const float4*>(&x_tile[k][n]);
      const float4 w4 = *reinterpret_cast<const float4*>(&w_tile[k][m]);
      const float x_k[4] = {x4.x, x4.y, x4.z, x4.w}, w_k[4] = {w4.x, w4.y, w4.z, w4.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(x_k[i], w_k[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      if (first_n + n + i >= product.N || first_m + m + j >= part.rows) continue;
      const float bias = part.bias != nullptr ? part.bias[first_m + m + j] : 0.0f;
      product.y[(first_n + n + i) * product.y_stride + part.first_col + first_m + m + j] = sums[i][j] + bias;
    }
  }
}

__global__ void round_inputs(const float* x, __nv_bfloat16* out, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) out[i] = __float2bfloat16_rn(x[i]);
}

__global__ void add_bias(Parts::Part part, Product product) {
  const int64_t m = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (m < part.rows) product.y[int64_t{blockIdx.x} * product.y_stride + part.first_col + m] += part.bias[m];
}

template <class T, bool kRounds, int kRows = kGemvRows>
void stream_all(cudaStream_t queue, const Parts& parts, const Product& product) {
  if constexpr (kRows > 1) {
    if (product.N < kRows) return stream_all<T, kRounds, kRows - 1>(queue, parts, product);
  }
  const int64_t blocks = blocks_of(parts.rows, kThreads / kWarp);
  stream_weights<T, kRows, kRounds><<<static_cast<unsigned>(blocks), kThreads, 0, queue>>>(parts, product);
}

/// The parts of one type, by the kernels here.
template <class T, bool kRounds>
void multiply(cudaStream_t queue, const Parts& parts, const Product& product) {
  if (product.N <= kGemvRows) {
    stream_all<T, kRounds>(queue, parts, product);
  } else {
    const dim3 grid(static_cast<unsigned>(parts.tiles), static_cast<unsigned>(blocks_of(product.N, kTile)));
    multiply_tiles<T, kRounds><<<grid, kThreads, 0, queue>>>(parts, product);
  }
  launched("linear");
}

/// Whether cuBLASLt may take a product whose input is rounded: rows of bf16 then begin at multiples of 16 bytes.
bool takes_gemm(int64_t N, int64_t K) { return N > kGemvRows && K % 8 == 0; }

void multiply_by_library(Gpu::Impl& gpu, const Parts& parts, const Product& product, void* rounded) {
  const int64_t count = product.N * product.K;
  round_inputs<<<static_cast<unsigned>(blocks_of(count, kThreads)), kThreads, 0, gpu.stream>>>(
      product.x, static_cast<__nv_bfloat16*>(rounded), count);
  launched("linear");
  for (int i = 0; i < parts.count; ++i) {
    const Parts::Part& part = parts.list[i];
    gpu.gemm()->run({rounded, part.w, product.y + part.first_col, product.N, part.rows, product.K, product.y_stride},
                    gpu.stream);
    if (part.bias == nullptr) continue;
    const dim3 grid(static_cast<unsigned>(product.N), static_cast<unsigned>(blocks_of(part.rows, kThreads)));
    add_bias<<<grid, kThreads, 0, gpu.stream>>>(part, product);
    launched("linear");
  }
}

void multiply_type(const Stream& stream, DType dtype, const Parts& parts, const Product& product, void* rounded) {
  Gpu::Impl& gpu = gpu_of(stream);
  if (!rounds(stream, dtype)) {
    return for_element(dtype, [&]<class T>(T) { multiply<T, false>(gpu.stream, parts, product); });
  }
  if (takes_gemm(product.N, product.K) && gpu.gemm() != nullptr)
    return multiply_by_library(gpu, parts, product, rounded);
  multiply<__nv_bfloat16, true>(gpu.stream, parts, product);
}

struct Steps {
  float *gate_up, *hidden;  // [N, 2F], [N, F]
  char* product;            // scratch of either product
  int64_t bytes;
};

ops::LinearArgs first_step(const ops::FeedForwardArgs& args, const Weight* const* weights, const Steps& scratch) {
  return {args.x, weights, 2, args.N, args.D, {scratch.gate_up, 2 * args.gate->rows()}, scratch.product};
}
ops::LinearArgs last_step(const ops::FeedForwardArgs& args, const Steps& scratch) {
  const int64_t F = args.gate->rows();
  return {{scratch.hidden, F}, &args.down, 1, args.N, F, args.y, scratch.product};
}

Steps lay_out(const Stream& stream, const ops::FeedForwardArgs& args, cpu::Workspace workspace) {
  const int64_t F = args.gate->rows();
  const Weight* const weights[] = {args.gate, args.up};
  Steps scratch = {};
  scratch.gate_up = workspace.take<float>(args.N * 2 * F);
  scratch.hidden = workspace.take<float>(args.N * F);
  scratch.product = workspace.take<char>(std::max(linear_workspace(stream, first_step(args, weights, scratch)),
                                                  linear_workspace(stream, last_step(args, scratch))));
  scratch.bytes = workspace.bytes();
  return scratch;
}

}  // namespace

int64_t linear_workspace(const Stream& stream, const ops::LinearArgs& args) {
  bool rounds_any = false;
  for (int64_t i = 0; i < args.count; ++i) rounds_any = rounds_any || rounds(stream, args.weights[i]->dtype());
  return rounds_any && takes_gemm(args.N, args.K) ? args.N * args.K * 2 : 0;
}

void linear(const Stream& stream, const ops::LinearArgs& args) {
  const Product product = {args.x.f32(), args.N, args.K, args.y.f32(), args.y.stride};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4}) {
    Parts parts;
    int64_t first_col = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      if (args.weights[i]->dtype() == dtype) parts.add(*args.weights[i], first_col);
      first_col += args.weights[i]->rows();
    }
    if (parts.count > 0) multiply_type(stream, dtype, parts, product, args.workspace);
  }
}

int64_t feed_forward_workspace(const Stream& stream, const ops::FeedForwardArgs& args) {
  return lay_out(stream, args, {}).bytes;
}

void feed_forward(const Stream& stream, const ops::FeedForwardArgs& args) {
  const Steps scratch = lay_out(stream, args, cpu::Workspace(args.workspace));
  const int64_t F = args.gate->rows();
  const Weight* const weights[] = {args.gate, args.up};
  linear(stream, first_step(args, weights, scratch));
  kernels::gated_unit(stream, {{scratch.gate_up, 2 * F}, {scratch.hidden, F}, args.N, F, args.activation});
  linear(stream, last_step(args, scratch));
}

}  // namespace carousel::cuda
