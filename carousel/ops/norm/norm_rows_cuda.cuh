// SPDX-License-Identifier: Apache-2.0
// Norms of rows that threads hold in registers, eight columns each. Sums have one order, whichever kernel forms them: a
// product of one row that is recorded norms its x itself (HeldNorm), and leaves the bits of the norm's own kernel.
#pragma once

#include <memory>

#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/norm/norm_cpu.h"
#include "carousel/ops/rows/fours_cuda.cuh"

namespace carousel::cuda {

using ops::Affine;

/// `weight` is norm.weight[j] where there is one.
__device__ inline float apply(float x, Affine row, const ops::NormArgs& norm, float weight, int64_t j) {
  float v = (x - row.shift) * row.scale;
  if (norm.weight != nullptr) v *= norm.weight_offset != 0 ? weight + norm.weight_offset : weight;
  return norm.bias != nullptr ? v + norm.bias[j] : v;
}
__device__ inline float gated(float v, float pre, ops::NormGate::Kind kind) {
  return v * ops::norm_gate<FloatMath>(kind, pre);
}

/// Eight neighbouring columns.
struct Eight {
  float of[8];

  __device__ static Eight at(const float* row, int64_t j) { return of_fours(four_at(row, j), four_at(row, j + 4)); }
  /// The same past the first cache, which may hold what the row was before.
  __device__ static Eight past_cache(const float* row, int64_t j) {
    const auto* const fours = reinterpret_cast<const float4*>(row + j);
    return of_fours(__ldcg(fours), __ldcg(fours + 1));
  }
  __device__ static Eight of_fours(const float4& low, const float4& high) {
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  }
  __device__ void put(float* row, int64_t j) const {
    put_four(row, j, make_float4(of[0], of[1], of[2], of[3]));
    put_four(row, j + 4, make_float4(of[4], of[5], of[6], of[7]));
  }
};

/// The warps of a block that norm one row, or one head of it. Each sum has a place of its own, so none waits until
/// another has been read.
struct NormingWarps {
  int first, count;
  float (*shared)[kWarp];  // [2][32]

  __device__ float sum(float value, int which) const { return sum_of_warps(value, shared[which], first, count); }
};

/// A thread's eights of a row; `inside(i)` says whether it has the i-th.
template <int kEights, class Inside>
__device__ Affine statistics(const Eight (&eights)[kEights], const Inside& inside, int64_t width,
                             const ops::NormArgs& norm, const NormingWarps& warps) {
  if (norm.kind == ops::Norm::Kind::kNone) return {0.0f, 1.0f};
  float mean = 0;
  if (norm.kind == ops::Norm::Kind::kLayer) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
      const float* const v = eights[i].of;
      if (inside(i)) sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
    mean = warps.sum(sum, 0) / static_cast<float>(width);
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    if (!inside(i)) continue;
    for (const float v : eights[i].of) squares = fmaf(v - mean, v - mean, squares);
  }
  return {mean, ops::norm_scale(warps.sum(squares, 1) / static_cast<float>(width), norm.eps)};
}

/// One row: its sum with another, its norm over groups of columns, and a gate.
struct RowNorm {
  const float* x;    // [width]
  const float* y;    // [width] added to x, or null
  const float* pre;  // [width] of the gate, or null
  float* sum;        // [width] x + y, where there is a y
  float* normed;     // [width]
  int width, group;  // columns that are normed together: whole warps of eights, or all of them
  ops::NormArgs norm;
  ops::NormGate::Kind gate;
  bool early_x = false, early_pre = false;  // whether they may be read before await_inputs()
};

/// Columns of the longest row that a block of kNormingThreads norms with an eight for each thread.
constexpr int kNormingThreads = 512, kMostNormed = 8 * kNormingThreads;

/// A block's norm of a row: a thread has columns 8 threadIdx.x and on. Its constructor is called before await_inputs(),
/// and run() after it, by every thread of a block of at most kNormingThreads.
class NormedEight {
 public:
  __device__ explicit NormedEight(const RowNorm& row) : row_(row), j_(8 * static_cast<int>(threadIdx.x)) {
    if (!inside()) return;
    if (row.norm.weight != nullptr) weight_ = Eight::at(row.norm.weight, j_);
    if (row.early_x) x_ = Eight::past_cache(row.x, j_);
    if (row.early_pre) pre_ = Eight::past_cache(row.pre, j_);
  }
  /// The eight of the norm, zeros beyond the row. Of the block that `writes`, the sum and the norm go to memory too.
  __device__ Eight run(bool writes) {
    __shared__ float shared[2][kWarp];
    if (inside()) {  // all that is read is asked for at once
      if (!row_.early_x) x_ = Eight::at(row_.x, j_);
      if (!row_.early_pre && row_.pre != nullptr) pre_ = Eight::at(row_.pre, j_);
      if (row_.y != nullptr) {
        const Eight y = Eight::at(row_.y, j_);
#pragma unroll
        for (int i = 0; i < 8; ++i) x_.of[i] += y.of[i];
        if (writes) x_.put(row_.sum, j_);
      }
    }
    const int warps = (row_.group / 8 + kWarp - 1) / kWarp;
    const int first = row_.group == row_.width ? 0 : static_cast<int>(threadIdx.x) / kWarp / warps * warps;
    const Eight held[1] = {x_};
    const Affine affine =
        statistics(held, [&](int) { return inside(); }, row_.group, row_.norm, {first, warps, shared});
    if (!inside()) return x_;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x_.of[i] = apply(x_.of[i], affine, row_.norm, weight_.of[i], j_ + i);
      if (row_.pre != nullptr) x_.of[i] = gated(x_.of[i], pre_.of[i], row_.gate);
    }
    if (writes) x_.put(row_.normed, j_);
    return x_;
  }

 private:
  __device__ bool inside() const { return j_ < row_.width; }

  const RowNorm& row_;
  int j_;
  Eight x_ = {}, pre_ = {}, weight_ = {};
};

/// Norms of rows whose launch waits for the product that reads them: it may form a single row itself, and has the rows
/// rounded by the same kernel where it multiplies bf16.
struct HeldNorm final : HeldBack {
  /// Elements from a row to the next; sums and norms lie row by row.
  struct Strides {
    int64_t x, y, pre;
  };
  HeldNorm(const Gpu::Impl& on, const RowNorm& norm, int64_t count, const Strides& between)
      : HeldBack(norm.normed), gpu(on), row(norm), rows(count), strides(between) {}
  void launch() const override { launch(nullptr); }
  /// With the norms in bf16 too, [rows, width], or null.
  void launch(__nv_bfloat16* rounded) const;
  /// Whether the norms read `bytes` of the memory at `at`, or write a sum there. The arena may have handed out for the
  /// product what was released after the norm was held.
  bool touches(const void* at, size_t bytes) const {
    const auto overlaps = [&](const float* matrix, int64_t stride) {
      const auto* const first = reinterpret_cast<const char*>(matrix);
      const auto* const other = static_cast<const char*>(at);
      const auto size = static_cast<size_t>((rows - 1) * stride + row.width) * sizeof(float);
      return matrix != nullptr && first < other + bytes && other < first + size;
    };
    return overlaps(row.x, strides.x) || overlaps(row.y, strides.y) || overlaps(row.pre, strides.pre) ||
           overlaps(row.sum, row.width);
  }

  const Gpu::Impl& gpu;
  RowNorm row;  // the first one
  int64_t rows;
  Strides strides;
};

}  // namespace carousel::cuda
