// SPDX-License-Identifier: Apache-2.0
// Elements of a matrix that lies row by row on the GPU, widened to f32: exactly, whatever their type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "carousel/ops/kernel.h"
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

/// The rows of a weight that has them as floats; throws Error(kDevice) for another form, in the name of `op`.
inline const void* float_rows(const Weight& weight, const char* op) {
  const auto* const rows = weight.as<DenseRows>();
  if (rows == nullptr || !weight.memory().is_apart() || is_block(weight.dtype())) not_on_device(op);
  return rows->bytes().raw();
}

/// Calls f(T{}), where T is the element of `dtype`.
template <class F>
void for_element(DType dtype, const F& f) {
  if (dtype == DType::kBF16) return f(__nv_bfloat16{});
  if (dtype == DType::kF16) return f(__half{});
  f(float{});
}

}  // namespace carousel::cuda
