// SPDX-License-Identifier: Apache-2.0
// Elements of a matrix that lies row by row on the GPU, widened to f32: exactly, whatever their type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "carousel/ops/kernel.h"
#include "carousel/ops/weight/split_rows.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::cuda {

__device__ inline float widened(float value) { return value; }
__device__ inline float widened(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float widened(__half value) { return __half2float(value); }

/// Rounded to bf16, where a product's factors are.
__device__ inline float rounded(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }
/// Whether products with weights of this type round their inputs.
inline bool rounds(const Stream& stream, DType dtype) {
  return stream.compute == Compute::kBF16 && dtype == DType::kBF16;
}

/// The rows of a weight that has them as floats, q8 or q4; throws Error(kDevice) for another form, in the name of `op`.
inline const void* rows_of(const Weight& weight, const char* op) {
  const auto* const rows = weight.as<DenseRows>();
  const bool takes = !is_block(weight.dtype()) || is_simple_block(weight.dtype());
  if (rows == nullptr || !weight.memory().is_apart() || !takes) not_on_device(op);
  return rows->bytes().raw();
}

// Types of rows that have no element of their own.
struct Q8Row {};
struct Q4Row {};

/// What a row of elements T is made of: how many values 16 bytes hold, and its bytes.
template <class T>
struct Row {
  static constexpr bool kIsBlocks = false;
  static constexpr int kCount = 16 / sizeof(T);
  __host__ __device__ static int64_t bytes(int64_t cols) { return cols * static_cast<int64_t>(sizeof(T)); }
};
template <DType dtype>
struct BlockRow {
  static constexpr bool kIsBlocks = true;
  static constexpr int kCount = dtype == DType::kQ8 ? 16 : 32;
  static constexpr int kNumberBytes = static_cast<int>(split_number_bytes(dtype));
  __host__ __device__ static int64_t scales_at(int64_t cols) { return (cols + 31) / 32 * kNumberBytes; }
  __host__ __device__ static int64_t bytes(int64_t cols) {
    return (scales_at(cols) + (cols + 31) / 32 * 2 + 15) / 16 * 16;
  }
};
template <>
struct Row<Q8Row> : BlockRow<DType::kQ8> {};
template <>
struct Row<Q4Row> : BlockRow<DType::kQ4> {};

/// Column k of a row of `cols` elements.
template <class T>
__device__ inline float element(const void* row, int64_t /*cols*/, int64_t k) {
  return widened(static_cast<const T*>(row)[k]);
}
__device__ inline float scale_of(const void* row, int64_t scales_at, int64_t block) {
  return __half2float(reinterpret_cast<const __half*>(static_cast<const char*>(row) + scales_at)[block]);
}
template <>
__device__ inline float element<Q8Row>(const void* row, int64_t cols, int64_t k) {
  return scale_of(row, Row<Q8Row>::scales_at(cols), k / 32) * static_cast<float>(static_cast<const int8_t*>(row)[k]);
}
template <>
__device__ inline float element<Q4Row>(const void* row, int64_t cols, int64_t k) {
  const int pair = static_cast<const uint8_t*>(row)[k / 32 * 16 + k % 16];
  const int number = (k % 32 < 16 ? pair & 15 : pair >> 4) - 8;
  return scale_of(row, Row<Q4Row>::scales_at(cols), k / 32) * static_cast<float>(number);
}

/// Calls f(T{}), where T is the element of `dtype`, a float.
template <class F>
void for_element(DType dtype, const F& f) {
  if (dtype == DType::kBF16) return f(__nv_bfloat16{});
  if (dtype == DType::kF16) return f(__half{});
  f(float{});
}
/// The same for types of blocks too.
template <class F>
void for_row(DType dtype, const F& f) {
  if (dtype == DType::kQ8) return f(Q8Row{});
  if (dtype == DType::kQ4) return f(Q4Row{});
  for_element(dtype, f);
}

}  // namespace carousel::cuda
