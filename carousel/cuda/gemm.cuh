// SPDX-License-Identifier: Apache-2.0
// Large products by cuBLASLt. The library is loaded by name when the first product asks for it, so that one binary also
// runs where it is not installed; products then take the kernels of ops/linear alone.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

namespace carousel::cuda {

/// y [N, M] f32 = x [N, K] w [M, K]^T, row-major; x and w are bf16, sums f32.
struct GemmCall {
  const void* x;
  const void* w;
  float* y;
  int64_t N, M, K;
  int64_t y_stride;
  int weights = 1;      // matrices like w, whose columns of y lie side by side
  int64_t between = 0;  // elements from one to the next, a multiple of 8
};

struct GemmFunctions;

class Gemm {
 public:
  explicit Gemm(const GemmFunctions& functions);
  /// Throws Error(kDevice). Which algorithm is taken depends on the shape, and so may the last bits. Calls go to one
  /// queue, one at a time (Gpu::Impl::launching), since they share scratch memory.
  void run(const GemmCall& call, cudaStream_t stream);

 private:
  struct Plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t x, w, y;
    cublasLtMatmulAlgo_t algorithm;
  };
  // N, M, K, y_stride, rows of y at 16 bytes, matrices
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, bool, int>;
  const Plan& plan_of(const GemmCall& call);

  static constexpr size_t kScratchBytes = size_t{32} << 20;  // what NVIDIA asks for on Hopper
  const GemmFunctions& functions_;
  void* scratch_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex planning_;  // guards plans_, whose entries stay where they are and keep all but steps between w
  std::map<Shape, Plan> plans_;
};

/// Loads the library; null where it is not found. Never destroyed.
Gemm* open_gemm();

}  // namespace carousel::cuda
