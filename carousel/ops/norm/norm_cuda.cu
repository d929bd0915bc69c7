// SPDX-License-Identifier: Apache-2.0
// The norms on the GPU, a block per row or head: moments are summed in one fixed order, so a row never depends on the
// others.
#include "carousel/core/assert.h"
#include "carousel/ops/norm/norm_rows_cuda.cuh"

namespace carousel::cuda {
namespace {

/// Threads for a row of `width` elements: whole warps, and no more than have an element.
unsigned threads_for(int64_t width) {
  constexpr int64_t kMost = 256;
  const int64_t threads = blocks_of(width, kWarp) * kWarp;
  return static_cast<unsigned>(threads < kMost ? threads : kMost);
}

/// The block's statistics of x [width], an element at a time. The variance is computed from the deviations: E[x^2] -
/// E[x]^2 cancels where the mean is large against the spread.
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
  return {mean, ops::norm_scale(variance, norm.eps)};
}

__device__ const float* row_of(const View& view, int64_t n) {
  return static_cast<const float*>(view.data) + n * view.stride;
}
__device__ float* written_row(const View& view, int64_t n) { return static_cast<float*>(view.data) + n * view.stride; }

/// Rows of more columns than kMostNormed, kEights for each thread.
template <int kEights>
__global__ void __launch_bounds__(kNormingThreads) add_and_norm_wide(ops::AddNormArgs args) {
  __shared__ float shared[2][kWarp];
  const int64_t n = blockIdx.x;
  const auto first_of = [&](int i) { return 8 * (int64_t{threadIdx.x} + int64_t{i} * kNormingThreads); };
  const auto inside = [&](int i) { return first_of(i) < args.width; };
  Eight held[kEights];
  await_inputs();
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    if (inside(i)) held[i] = Eight::at(row_of(args.x, n), first_of(i));
  }
  if (args.y.data != nullptr) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
      if (!inside(i)) continue;
      const Eight y = Eight::at(row_of(args.y, n), first_of(i));
      for (int k = 0; k < 8; ++k) held[i].of[k] += y.of[k];
      held[i].put(written_row(args.sum, n), first_of(i));
    }
  }
  const Affine row = statistics(held, inside, args.width, args.norm, {0, kNormingThreads / kWarp, shared});
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    if (!inside(i)) continue;
    const Eight weight = args.norm.weight != nullptr ? Eight::at(args.norm.weight, first_of(i)) : Eight{};
    for (int k = 0; k < 8; ++k) held[i].of[k] = apply(held[i].of[k], row, args.norm, weight.of[k], first_of(i) + k);
    held[i].put(written_row(args.normed, n), first_of(i));
  }
}

/// A head of a row for each block, without a skip.
__global__ void __launch_bounds__(kNormingThreads) norm_of_heads_eights(ops::HeadNormArgs args) {
  const int64_t n = blockIdx.x, first = int64_t{blockIdx.y} * args.dv;
  const int dv = static_cast<int>(args.dv);
  ops::NormArgs norm = args.norm;
  if (norm.weight != nullptr) norm.weight += first;
  if (norm.bias != nullptr) norm.bias += first;
  const float* const pre = args.gate != ops::NormGate::Kind::kNone ? row_of(args.pre, n) + first : nullptr;
  const RowNorm row = {
      row_of(args.h, n) + first, nullptr, pre, nullptr, written_row(args.out, n) + first, dv, dv, norm, args.gate};
  NormedEight normed(row);
  await_inputs();
  normed.run(true);
}

/// A row for each block, of at most kMostNormed columns.
__global__ void __launch_bounds__(kNormingThreads)
    norm_rows(RowNorm row, HeldNorm::Strides strides, __nv_bfloat16* rounded) {
  const int64_t n = blockIdx.x;
  row.x += n * strides.x;
  if (row.y != nullptr) row.y += n * strides.y;
  if (row.pre != nullptr) row.pre += n * strides.pre;
  if (row.sum != nullptr) row.sum += n * row.width;
  row.normed += n * row.width;
  NormedEight normed(row);
  await_inputs();
  const Eight eight = normed.run(true);
  const int j = 8 * static_cast<int>(threadIdx.x);
  if (rounded == nullptr || j >= row.width) return;
  const float* const v = eight.of;
  *reinterpret_cast<uint4*>(rounded + n * row.width + j) =
      make_uint4(pair_of(v[0], v[1]), pair_of(v[2], v[3]), pair_of(v[4], v[5]), pair_of(v[6], v[7]));
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
  for (int64_t j = threadIdx.x; j < args.width; j += blockDim.x) {
    out[j] = apply(sum[j], row, args.norm, args.norm.weight != nullptr ? args.norm.weight[j] : 0.0f, j);
  }
}

__global__ void norm_of_heads(ops::HeadNormArgs args) {
  const int64_t n = blockIdx.x, first = int64_t{blockIdx.y} * args.dv;
  const float* const x = row_of(args.h, n) + first;
  const Affine row = statistics(x, args.dv, args.norm);
  for (int64_t i = threadIdx.x; i < args.dv; i += blockDim.x) {
    const int64_t j = first + i;
    float v = apply(x[i], row, args.norm, args.norm.weight != nullptr ? args.norm.weight[j] : 0.0f, j);
    if (args.skip.data != nullptr) v = fmaf(args.skip_weight[j], row_of(args.skip, n)[j], v);
    if (args.gate != ops::NormGate::Kind::kNone) v = gated(v, row_of(args.pre, n)[j], args.gate);
    written_row(args.out, n)[j] = v;
  }
}

/// Threads for rows of `width` columns, an eight each.
unsigned threads_of_eights(int64_t width) {
  return static_cast<unsigned>(blocks_of(blocks_of(width, 8), kWarp) * kWarp);
}

template <int kEights>
void add_norm_wide(const Stream& stream, const ops::AddNormArgs& args) {
  launch_early(gpu_of(stream), add_and_norm_wide<kEights>, dim3(static_cast<unsigned>(args.rows)), kNormingThreads, 0,
               args);
}

/// Whether a parameter can be read in fours; one that is not there agrees.
bool starts_fours(const float* parameter) { return reinterpret_cast<uintptr_t>(parameter) % 16 == 0; }

const float* read_row(const View& view) { return static_cast<const float*>(view.data); }

}  // namespace

void HeldNorm::launch(__nv_bfloat16* rounded) const {
  launch_early(gpu, norm_rows, dim3(static_cast<unsigned>(rows)), threads_of_eights(row.width), 0, row, strides,
               rounded);
  launched("a norm");
}

/// Which kernel runs depends on the norm and on where the matrices lie, never on the number of rows.
void add_norm(const Stream& stream, const ops::AddNormArgs& args) {
  const Gpu::Impl& gpu = gpu_of(stream);
  const bool eights = args.width % 8 == 0 && has_fours(args.x) && has_fours(args.y) && has_fours(args.sum) &&
                      has_fours(args.normed) && starts_fours(args.norm.weight);
  if (eights && args.width <= kMostNormed) {
    CAROUSEL_ASSERT(args.normed.stride == args.width && (args.y.data == nullptr || args.sum.stride == args.width));
    const int width = static_cast<int>(args.width);
    const RowNorm first = {read_row(args.x),
                           read_row(args.y),
                           nullptr,
                           static_cast<float*>(args.sum.data),
                           static_cast<float*>(args.normed.data),
                           width,
                           width,
                           args.norm,
                           ops::NormGate::Kind::kNone};
    const HeldNorm::Strides strides = {args.x.stride, args.y.stride, 0};
    gpu.hold_back(std::make_unique<HeldNorm>(gpu, first, args.rows, strides));
  } else if (eights && args.width <= 2 * kMostNormed) {
    add_norm_wide<2>(stream, args);
  } else if (eights && args.width <= 8 * kMostNormed) {
    add_norm_wide<8>(stream, args);
  } else {
    add_and_norm<<<static_cast<unsigned>(args.rows), threads_for(args.width), 0, gpu.queue()>>>(args);
  }
  launched("add_norm");
}

void head_norm(const Stream& stream, const ops::HeadNormArgs& args) {
  const Gpu::Impl& gpu = gpu_of(stream);
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.heads));
  const bool eights = args.dv % 8 == 0 && args.dv <= kMostNormed && args.skip.data == nullptr && has_fours(args.h) &&
                      has_fours(args.pre) && has_fours(args.out) && starts_fours(args.norm.weight);
  constexpr int64_t kMostHeld = 256;  // rows: more of them have a block for each head
  const bool whole_warps = args.dv % (8 * kWarp) == 0 || args.heads == 1;
  const int64_t width = args.heads * args.dv;
  if (eights && whole_warps && args.out.stride == width && args.rows <= kMostHeld && width <= kMostNormed) {
    const bool gates = args.gate != ops::NormGate::Kind::kNone;
    const RowNorm first = {read_row(args.h),
                           nullptr,
                           gates ? read_row(args.pre) : nullptr,
                           nullptr,
                           static_cast<float*>(args.out.data),
                           static_cast<int>(width),
                           static_cast<int>(args.dv),
                           args.norm,
                           args.gate};
    const HeldNorm::Strides strides = {args.h.stride, 0, args.pre.stride};
    gpu.hold_back(std::make_unique<HeldNorm>(gpu, first, args.rows, strides));
  } else if (eights) {
    launch_early(gpu, norm_of_heads_eights, grid, threads_of_eights(args.dv), 0, args);
  } else {
    norm_of_heads<<<grid, threads_for(args.dv), 0, gpu.queue()>>>(args);
  }
  launched("head_norm");
}

}  // namespace carousel::cuda
