// SPDX-License-Identifier: Apache-2.0
// Products of few rows of x, an element of the weights at a time: for rows that are no whole pieces, for small
// matrices, and to compare linear_stream_cuda.cuh with.
#pragma once

#include "carousel/ops/linear/linear_stage_cuda.cuh"

namespace carousel::cuda {
namespace {

/// The same as stream_row() where x is rounded to 8 bits: a warp's 32 columns are a block.
template <class T, int kRows>
__device__ void stream_codes(const char* w, const Product& product, float (&sums)[kRows]) {
  for (int64_t k0 = 0; k0 < product.K; k0 += kWarp) {
    const int64_t k = k0 + threadIdx.x % kWarp;
    const bool inside = k < product.K;
    const float w_k = inside ? element<T>(w, product.K, k) : 0.0f;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const float x = inside ? product.x[(n < product.N ? n : 0) * product.K + k] : 0.0f;
      const CodeScale scale(warp_max(CodeScale::size(x)));
      sums[n] = fmaf(static_cast<float>(scale.code(x)) * scale.step, w_k, sums[n]);
    }
  }
}

/// A warp's sums of x_n w over its lanes' columns, for kRows rows of x. The chain of a lane does not depend on kRows.
template <class T, int kRows, bool kRounds>
__device__ void stream_row(const char* w, const Product& product, float (&sums)[kRows]) {
  if constexpr (kAsCodes<T, kRounds>) return stream_codes<T>(w, product, sums);
  constexpr int kCount = Row<T>::kIsBlocks ? 1 : Row<T>::kCount;
  const int64_t K = product.K, count = K % kCount == 0 ? kCount : 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t k0 = lane * count; k0 < K; k0 += kWarp * count) {
    for (int64_t k = k0; k < k0 + count; ++k) {
      const float w_k = element<T>(w, K, k);
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        const int64_t row = n < product.N ? n : 0;  // beyond the last one: the first again, and not written
        sums[n] = fmaf(rounded_input<kRounds>(product.x[row * K + k]), w_k, sums[n]);
      }
    }
  }
}

/// A warp per output and kRows rows of x: for rows that are no whole pieces, for small matrices, and to compare with.
template <class T, int kRows, bool kRounds>
__global__ void stream_weights(Parts parts, Product product) {
  const int64_t first_n = int64_t{blockIdx.y} * kRows;
  product.x += first_n * product.K;
  product.y += first_n * product.y_stride;
  product.N -= first_n;
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  if (row >= parts.rows) return;
  const Parts::Part& part = parts.of_row(row);
  const int64_t m = row - part.first_row;
  float sums[kRows] = {};
  stream_row<T, kRows, kRounds>(part.row(m), product, sums);
#pragma unroll
  for (int n = 0; n < kRows; ++n) sums[n] = warp_sum(sums[n]);
  if (threadIdx.x % kWarp != 0) return;
  const float bias = part.bias != nullptr ? part.bias[m] : 0.0f;
#pragma unroll
  for (int n = 0; n < kRows; ++n) {
    if (n < product.N) product.y[n * product.y_stride + part.first_col + m] = sums[n] + bias;
  }
}

}  // namespace
}  // namespace carousel::cuda
