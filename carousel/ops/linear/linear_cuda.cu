// SPDX-License-Identifier: Apache-2.0
// Products on the GPU. A call's weights of one type are one launch, each warp or tile finding its own. With few rows of
// x warps stream the weights (linear_stream_cuda.cuh); with many, tiles of 64 rows and 64 outputs go through shared
// memory. Sums are f32, and so are factors, unless the stream computes in bf16: then x is rounded to bf16 before
// weights of bf16, and to 8 bits before blocks where it has up to 8 rows. cuBLASLt takes more rows, with blocks widened
// to bf16.
#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "carousel/cpu/workspace.h"
#include "carousel/cuda/gemm.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/gate/gated_unit_cuda.cuh"
#include "carousel/ops/linear/linear_plain_cuda.cuh"
#include "carousel/ops/linear/linear_stream_cuda.cuh"
#include "carousel/ops/rows/round_floats_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int64_t kGemvRows = 8;    // up to here weights are streamed
constexpr int64_t kStreamRows = 4;  // up to here that is faster than cuBLASLt, with weights of bf16
constexpr int kThreads = 256;
constexpr int kDepth = 16;  // columns of x and w in shared memory at a time

/// A tile of x or w in shared memory: column k of the rows that follow `first`, zero beyond the matrix.
template <class T, bool kRounds>
__device__ void load_tile(const char* matrix, int64_t row_bytes, int64_t rows, int64_t first, int64_t K, int64_t k0,
                          float (*tile)[kTile + 4]) {
  const int row = static_cast<int>(threadIdx.x) / 4, k = static_cast<int>(threadIdx.x) % 4 * 4;
  const char* const from = matrix + (first + row) * row_bytes;
  for (int i = 0; i < 4; ++i) {
    const bool inside = first + row < rows && k0 + k + i < K;
    tile[k + i][row] = inside ? rounded_input<kRounds>(element<T>(from, K, k0 + k + i)) : 0.0f;
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
    load_tile<float, kRounds>(reinterpret_cast<const char*>(product.x), product.K * 4, product.N, first_n, product.K,
                              k0, x_tile);
    load_tile<T, false>(static_cast<const char*>(part.w), part.row_bytes, part.rows, first_m, product.K, k0, w_tile);
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

__global__ void add_bias(Parts::Part part, Product product) {
  const int64_t m = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (m < part.rows) product.y[int64_t{blockIdx.x} * product.y_stride + part.first_col + m] += part.bias[m];
}
void add_bias_of(const Gpu::Impl& gpu, const Parts::Part& part, const Product& product) {
  if (part.bias == nullptr) return;
  const dim3 grid(static_cast<unsigned>(product.N), static_cast<unsigned>(blocks_of(part.rows, kThreads)));
  add_bias<<<grid, kThreads, 0, gpu.queue()>>>(part, product);
  launched("linear");
}

/// Rows first to first + count of blocks, widened to bf16 [count, K], a block each.
template <class T>
__global__ void widen_rows(Parts::Part part, int64_t first, int64_t K, __nv_bfloat16* out) {
  const char* const row = part.row(first + blockIdx.x);
  __nv_bfloat16* const to = out + int64_t{blockIdx.x} * K;
  for (int64_t k = threadIdx.x; k < K; k += blockDim.x) to[k] = __float2bfloat16_rn(element<T>(row, K, k));
}

/// Small matrices, as those of gates and cells, are streamed for many rows too, eight at a time: a row then has the
/// same bits alone and among others. In bf16 more than eight rows are faster by few_outputs and cuBLASLt. Of floats the
/// streams of few rows give the same bits and are faster; those of blocks sum in another order.
bool takes_streams(const Stream& stream, const Weight& weight, const ops::LinearArgs& args) {
  constexpr int64_t kSmall = int64_t{1} << 16;
  if (weight.rows() * args.K > kSmall) return false;
  if (args.N <= kStreamRows && !is_block(weight.dtype())) return false;
  return stream.compute != Compute::kBF16 || args.N <= kGemvRows;
}

/// The types that for_row() knows, in the order in which a call multiplies them. Floats, which are few in a model of
/// other types, come last: a norm that waits for the call is for the large weights.
constexpr DType kTypes[] = {DType::kBF16, DType::kF16, DType::kQ8, DType::kQ4, DType::kF32};
constexpr size_t kTypeCount = std::size(kTypes);

/// Whether rows of K elements are whole pieces of 16 bytes; those of other types are not.
bool is_whole_pieces(DType dtype, int64_t K) {
  for (const DType known : kTypes) {
    if (dtype != known) continue;
    bool whole = false;
    for_row(dtype, [&]<class T>(T) { whole = K % Row<T>::kCount == 0; });
    return whole;
  }
  return false;
}

/// Whether a weight of few outputs goes by few_outputs (up to 8 rows: by the streams), where the stream computes in
/// bf16: cuBLASLt needs a launch and more for each. Its rows have the same bits alone and among others.
bool takes_few(const Stream& stream, const Weight& weight, const ops::LinearArgs& args) {
  const int64_t streamed = weight.dtype() == DType::kBF16 ? kStreamRows : kGemvRows;  // in any case
  return stream.compute == Compute::kBF16 && args.N > streamed && args.N <= kRowsOfFew &&
         weight.rows() <= kFewOutputs && !is_block(weight.dtype()) && args.K <= columns_at_once(1, false) &&
         is_whole_pieces(weight.dtype(), args.K);
}

bool goes_apart(const Stream& stream, const Weight& weight, const ops::LinearArgs& args) {
  return takes_streams(stream, weight, args) || takes_few(stream, weight, args);
}

template <class T, bool kRounds, int kRows = kGemvRows>
void stream_all(cudaStream_t queue, const Parts& parts, const Product& product) {
  if constexpr (kRows > 1) {
    if (product.N < kRows) return stream_all<T, kRounds, kRows - 1>(queue, parts, product);
  }
  constexpr int64_t kMost = 65535 * kRows;  // rows of one launch
  for (int64_t first = 0; first < product.N; first += kMost) {
    Product some = product;
    some.x += first * product.K;
    some.y += first * product.y_stride;
    some.N = std::min(kMost, product.N - first);
    const dim3 grid(static_cast<unsigned>(blocks_of(parts.rows, kThreads / kWarp)),
                    static_cast<unsigned>(blocks_of(some.N, kRows)));
    stream_weights<T, kRows, kRounds><<<grid, kThreads, 0, queue>>>(parts, some);
  }
}

/// The parts of one type, by the kernels here. `floats` goes beside parts that takes_beside() names, else it is empty.
template <class T, bool kRounds>
void multiply(const Gpu::Impl& gpu, const Parts& parts, const Product& product, const Parts& floats = {}) {
  if (product.N > kGemvRows) {
    const dim3 grid(static_cast<unsigned>(parts.tiles), static_cast<unsigned>(blocks_of(product.N, kTile)));
    multiply_tiles<T, kRounds><<<grid, kThreads, 0, gpu.queue()>>>(parts, product);
  } else if (gpu.runs(Fast::kStream) && product.K % Row<T>::kCount == 0) {
    stream_in_pieces<T, kRounds>(gpu, parts, product, floats);
  } else {
    stream_all<T, kRounds>(gpu.queue(), parts, product);
  }
  launched("linear");
}

/// Whether cuBLASLt may take a product: rows of bf16 then begin at multiples of 16 bytes.
bool takes_gemm(const Stream& stream, DType dtype, int64_t N, int64_t K) {
  const bool narrow = dtype == DType::kBF16 || is_block(dtype);
  return stream.compute == Compute::kBF16 && narrow && N > (is_block(dtype) ? kGemvRows : kStreamRows) && K % 8 == 0;
}
/// Rows of blocks that are widened at a time: some 64 MB.
int64_t rows_widened(int64_t rows, int64_t K) { return std::min(rows, std::max<int64_t>(kTile, (32 << 20) / K)); }

/// Scratch memory of cuBLASLt's products.
struct GemmScratch {
  __nv_bfloat16* x;  // [N, K]
  __nv_bfloat16* w;  // [rows_widened, K]
};

void run_gemm(Gpu::Impl& gpu, const GemmCall& call) {
  const std::lock_guard lock(gpu.launching);
  gpu.gemm()->run(call, gpu.queue());
}

/// Output columns of a part's rows first to first + count, whose weights are `w`.
void multiply_rows(Gpu::Impl& gpu, const Product& product, const void* x, const void* w, int64_t column,
                   int64_t count) {
  run_gemm(gpu, {x, w, product.y + column, product.N, count, product.K, product.y_stride});
}

/// Whether a part and the next one of bf16 go as one call: few rows leave much of the GPU to a single one.
bool are_twins(const Parts& parts, int i, const Product& product) {
  constexpr int64_t kMostRows = 256;
  if (product.N > kMostRows || i + 1 >= parts.count) return false;
  const Parts::Part &one = parts.list[i], &other = parts.list[i + 1];
  return one.rows == other.rows && other.first_col == one.first_col + one.rows && one.w < other.w;
}

void multiply_twins(Gpu::Impl& gpu, const Product& product, const void* x, const Parts::Part& one,
                    const Parts::Part& other) {
  const int64_t between = (static_cast<const char*>(other.w) - static_cast<const char*>(one.w)) / 2;  // of bf16
  run_gemm(gpu, {x, one.w, product.y + one.first_col, product.N, one.rows, product.K, product.y_stride, 2, between});
}

template <class T>
void multiply_widened(Gpu::Impl& gpu, const Parts::Part& part, const Product& product, const GemmScratch& scratch) {
  const int64_t most = rows_widened(part.rows, product.K);
  for (int64_t first = 0; first < part.rows; first += most) {
    const int64_t count = std::min(most, part.rows - first);
    widen_rows<T><<<static_cast<unsigned>(count), kThreads, 0, gpu.queue()>>>(part, first, product.K, scratch.w);
    launched("linear");
    multiply_rows(gpu, product, scratch.x, scratch.w, part.first_col + first, count);
  }
}

/// x as bf16 lies in scratch.x, where there is a product.x that is rounded to it first.
void multiply_by_library(Gpu::Impl& gpu, DType dtype, const Parts& parts, const Product& product,
                         const GemmScratch& scratch) {
  if (product.x != nullptr) {
    const std::unique_ptr<const HeldBack> held = gpu.take_held(product.x);
    const auto* const norm = dynamic_cast<const HeldNorm*>(held.get());
    const bool suits = norm != nullptr && norm->rows == product.N && norm->row.width == product.K;
    if (suits && !norm->touches(scratch.x, static_cast<size_t>(product.N * product.K) * sizeof(__nv_bfloat16))) {
      norm->launch(scratch.x);
    } else {
      if (held != nullptr) held->launch();
      round_floats(gpu, product.x, scratch.x, product.N * product.K);
    }
  }
  for (int i = 0; i < parts.count;) {
    const Parts::Part& part = parts.list[i];
    const int together = dtype == DType::kBF16 && are_twins(parts, i, product) ? 2 : 1;
    if (dtype == DType::kQ8) {
      multiply_widened<Q8Row>(gpu, part, product, scratch);
    } else if (dtype == DType::kQ4) {
      multiply_widened<Q4Row>(gpu, part, product, scratch);
    } else if (together == 2) {
      multiply_twins(gpu, product, scratch.x, part, parts.list[i + 1]);
    } else {
      multiply_rows(gpu, product, scratch.x, part.w, part.first_col, part.rows);
    }
    for (const int end = i + together; i < end; ++i) add_bias_of(gpu, parts.list[i], product);
  }
}

GemmScratch lay_out(const Stream& stream, const ops::LinearArgs& args, cpu::Workspace* workspace) {
  bool any = false;
  int64_t widened = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    const Weight& weight = *args.weights[i];
    if (!takes_gemm(stream, weight.dtype(), args.N, args.K)) continue;
    if (goes_apart(stream, weight, args)) continue;
    any = true;
    if (is_block(weight.dtype())) widened = std::max(widened, rows_widened(weight.rows(), args.K));
  }
  return {workspace->take<__nv_bfloat16>(any ? args.N * args.K : 0), workspace->take<__nv_bfloat16>(widened * args.K)};
}

void multiply_type(const Stream& stream, DType dtype, const Parts& parts, const Product& product,
                   const GemmScratch& scratch, const Parts& floats = {}) {
  Gpu::Impl& gpu = gpu_of(stream);
  if (takes_gemm(stream, dtype, product.N, product.K) && gpu.gemm() != nullptr) {
    return multiply_by_library(gpu, dtype, parts, product, scratch);
  }
  if (rounds(stream, dtype)) return multiply<__nv_bfloat16, true>(gpu, parts, product);
  const bool as_codes = stream.compute == Compute::kBF16 && is_block(dtype) && product.N <= kGemvRows;
  for_row(dtype, [&]<class T>(T) {
    if constexpr (Row<T>::kIsBlocks) {
      if (as_codes) return multiply<T, true>(gpu, parts, product, floats);
    }
    multiply<T, false>(gpu, parts, product, floats);
  });
}

/// Small matrices among many rows: those of takes_streams(), or of takes_few().
void multiply_small(const Stream& stream, DType dtype, const Parts& parts, const Product& product) {
  const Gpu::Impl& gpu = gpu_of(stream);
  const bool few = stream.compute == Compute::kBF16 && product.N > kGemvRows && gpu.runs(Fast::kStream);
  if (rounds(stream, dtype)) {
    if (product.N <= kGemvRows) return multiply<__nv_bfloat16, true>(gpu, parts, product);
    few ? multiply_few<__nv_bfloat16, true>(gpu, parts, product)
        : stream_all<__nv_bfloat16, true>(gpu.queue(), parts, product);
    return launched("linear");
  }
  for_row(dtype, [&]<class T>(T) {
    if constexpr (!Row<T>::kIsBlocks) {
      if (few) return multiply_few<T, false>(gpu, parts, product);
    }
    stream_all<T, false>(gpu.queue(), parts, product);
  });
  launched("linear");
}

/// Whether a few rows of floats go along with blocks of the same call.
bool takes_beside(const Stream& stream, const ops::LinearArgs& args, const Parts& floats) {
  constexpr int64_t kFewFloats = 128;
  if (args.N > kStreamRows || floats.rows > kFewFloats || !gpu_of(stream).runs(Fast::kStream)) return false;
  for (int64_t i = 0; i < args.count; ++i) {
    const Weight& weight = *args.weights[i];
    const DType dtype = weight.dtype();
    if (is_block(dtype) && is_whole_pieces(dtype, args.K) && !takes_streams(stream, weight, args)) return true;
  }
  return false;
}

/// Whether gate and up may be one launch that leaves units: streamed, and of one type.
bool takes_units(const Stream& stream, const ops::LinearArgs& args) {
  const Weight &gate = *args.weights[0], &up = *args.weights[1];
  const Gpu::Impl& gpu = gpu_of(stream);
  const DType dtype = gate.dtype();
  return args.N <= kUnitRows && up.dtype() == dtype && gpu.runs(Fast::kStream) && is_whole_pieces(dtype, args.K) &&
         !takes_streams(stream, gate, args);
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
  cpu::Workspace counted;
  lay_out(stream, args, &counted);
  return counted.bytes();
}

void linear(const Stream& stream, const ops::LinearArgs& args) {
  const Product product = {args.x.f32(), args.N, args.K, args.y.f32(), args.y.stride};
  cpu::Workspace workspace(args.workspace);
  const GemmScratch scratch = lay_out(stream, args, &workspace);
  int64_t left = args.count;
  struct OfType {
    Parts parts, small;
  };
  const auto weights_of = [&](DType dtype) {
    OfType some;
    int64_t first_col = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      const Weight& weight = *args.weights[i];
      if (weight.dtype() == dtype) {
        (goes_apart(stream, weight, args) ? some.small : some.parts).add(weight, first_col);
      }
      first_col += weight.rows();
    }
    left -= some.parts.count + some.small.count;
    return some;
  };
  OfType all[kTypeCount];
  for (size_t i = 0; i < kTypeCount; ++i) all[i] = weights_of(kTypes[i]);
  Parts& floats = all[kTypeCount - 1].parts;
  Parts beside = takes_beside(stream, args, floats) ? std::exchange(floats, {}) : Parts{};
  for (size_t i = 0; i < kTypeCount; ++i) {
    if (all[i].parts.count == 0) continue;
    multiply_type(stream, kTypes[i], all[i].parts, product, scratch,
                  is_block(kTypes[i]) ? std::exchange(beside, {}) : Parts{});
  }
  for (size_t i = 0; i < kTypeCount; ++i) {  // after all large ones, for the same reason
    if (all[i].small.count > 0) multiply_small(stream, kTypes[i], all[i].small, product);
  }
  if (left > 0) not_on_device("linear of such a weight");
}

int64_t feed_forward_workspace(const Stream& stream, const ops::FeedForwardArgs& args) {
  return lay_out(stream, args, {}).bytes;
}

void feed_forward(const Stream& stream, const ops::FeedForwardArgs& args) {
  const Steps scratch = lay_out(stream, args, cpu::Workspace(args.workspace));
  const int64_t F = args.gate->rows();
  const Weight* const weights[] = {args.gate, args.up};
  const ops::LinearArgs first = first_step(args, weights, scratch);
  const bool units = takes_units(stream, first);
  if (units) {
    Parts parts;
    for (const Weight* const weight : weights) parts.add(*weight, 0);
    multiply_type(stream, args.gate->dtype(), parts,
                  {args.x.f32(), args.N, args.D, scratch.hidden, F, F, args.activation}, {});
  } else {
    linear(stream, first);
  }
  const ops::LinearArgs last = last_step(args, scratch);
  Gpu::Impl& gpu = gpu_of(stream);
  const DType dtype = args.down->dtype();
  if (takes_gemm(stream, dtype, args.N, F) && gpu.gemm() != nullptr && !goes_apart(stream, *args.down, last)) {
    cpu::Workspace workspace(scratch.product);
    const GemmScratch rounded = lay_out(stream, last, &workspace);
    run_unit_fours(stream, {scratch.gate_up, 2 * F}, args.N, F, args.activation, rounded.x, F);
    Parts down;
    down.add(*args.down, 0);
    return multiply_by_library(gpu, dtype, down, {nullptr, args.N, F, args.y.f32(), args.y.stride}, rounded);
  }
  if (!units) {
    kernels::gated_unit(stream, {{scratch.gate_up, 2 * F}, {scratch.hidden, F}, args.N, F, args.activation});
  }
  linear(stream, last);
}

}  // namespace carousel::cuda
