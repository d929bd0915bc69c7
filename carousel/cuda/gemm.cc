// SPDX-License-Identifier: Apache-2.0
// cuBLASLt by dlopen: its functions, and a plan for every shape of product that was asked for.
#include "carousel/cuda/gemm.cuh"

#include <dlfcn.h>

#include <string>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/cuda/launch.cuh"

namespace carousel::cuda {

struct GemmFunctions {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) product_create;
  decltype(&cublasLtMatmulDescSetAttribute) product_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose;
};

namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    check(cudaFree(nullptr), what);  // a GPU that failed answers every call with what happened to it
    fail(ErrorKind::kDevice, "cuda: {}: cuBLASLt status {}", what, static_cast<int>(status));
  }
}

void* open_library() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  for (const std::string& folder : {std::string(), std::string("/usr/local/cuda/lib64/")}) {
    if (void* const library = ::dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(::dlsym(library, name));
  return *function != nullptr;
}

bool find_all(void* library, GemmFunctions* f) {
  return find(library, "cublasLtCreate", &f->create) && find(library, "cublasLtMatmul", &f->matmul) &&
         find(library, "cublasLtMatmulDescCreate", &f->product_create) &&
         find(library, "cublasLtMatmulDescSetAttribute", &f->product_set) &&
         find(library, "cublasLtMatrixLayoutCreate", &f->layout_create) &&
         find(library, "cublasLtMatrixLayoutSetAttribute", &f->layout_set) &&
         find(library, "cublasLtMatmulPreferenceCreate", &f->preference_create) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", &f->preference_set) &&
         find(library, "cublasLtMatmulPreferenceDestroy", &f->preference_destroy) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", &f->choose);
}

}  // namespace

Gemm* open_gemm() {
  void* const library = open_library();
  if (library == nullptr) return nullptr;
  static GemmFunctions functions;
  if (!find_all(library, &functions)) return nullptr;
  return new Gemm(functions);
}

Gemm::Gemm(const GemmFunctions& functions) : functions_(functions) {
  check_blas(functions_.create(&handle_), "opening cuBLASLt");
  check(cudaMalloc(&scratch_, kScratchBytes), "memory for products");
}

/// cuBLASLt counts by columns: y^T [M, N] = w [M, K] x^T [K, N], where w is the transpose of what it reads.
const Gemm::Plan& Gemm::plan_of(const GemmCall& call) {
  const std::lock_guard lock(planning_);
  const bool wide_rows =
      reinterpret_cast<uintptr_t>(call.y) % 16 == 0 && call.y_stride % 4 == 0 && (call.weights == 1 || call.M % 4 == 0);
  const Shape shape = {call.N, call.M, call.K, call.y_stride, wide_rows, call.weights};
  if (const auto found = plans_.find(shape); found != plans_.end()) return found->second;
  Plan plan;
  const auto M = static_cast<uint64_t>(call.M), N = static_cast<uint64_t>(call.N), K = static_cast<uint64_t>(call.K);
  check_blas(functions_.product_create(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_blas(functions_.product_set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
             "a product");
  check_blas(functions_.layout_create(&plan.w, CUDA_R_16BF, K, M, call.K), "a product");
  check_blas(functions_.layout_create(&plan.x, CUDA_R_16BF, K, N, call.K), "a product");
  check_blas(functions_.layout_create(&plan.y, CUDA_R_32F, M, N, call.y_stride), "a product");
  const std::pair<cublasLtMatrixLayout_t, int64_t> steps[] = {{plan.w, call.between}, {plan.x, 0}, {plan.y, call.M}};
  for (const auto& [layout, step] : steps) {
    check_blas(functions_.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &call.weights, sizeof call.weights),
               "a product");
    check_blas(functions_.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step),
               "a product");
  }
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(functions_.preference_create(&preference), "a product");
  const size_t bytes = kScratchBytes;
  check_blas(functions_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
             "a product");
  // Columns of y may begin at any element; x and w are whole tensors or rows of them. Without aligned rows of y the
  // library takes algorithms of less than half the rate.
  const uint32_t aligned = wide_rows ? 16 : 4, operand = 16;
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES}) {
    check_blas(functions_.preference_set(preference, which, &operand, sizeof operand), "a product");
  }
  check_blas(
      functions_.preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &aligned, sizeof aligned),
      "a product");
  check_blas(
      functions_.preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &aligned, sizeof aligned),
      "a product");
  cublasLtMatmulHeuristicResult_t best;
  int count = 0;
  const cublasStatus_t status =
      functions_.choose(handle_, plan.product, plan.w, plan.x, plan.y, plan.y, preference, 1, &best, &count);
  functions_.preference_destroy(preference);
  check_blas(count > 0 ? status : CUBLAS_STATUS_NOT_SUPPORTED, "choosing a product");
  plan.algorithm = best.algo;
  return plans_.emplace(shape, plan).first->second;
}

void Gemm::run(const GemmCall& call, cudaStream_t stream) {
  const Plan& plan = plan_of(call);
  if (call.weights > 1) {  // other matrices of the same shape lie elsewhere
    check_blas(
        functions_.layout_set(plan.w, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &call.between, sizeof call.between),
        "a product");
  }
  const float one = 1, zero = 0;
  check_blas(functions_.matmul(handle_, plan.product, &one, call.w, plan.w, call.x, plan.x, &zero, call.y, plan.y,
                               call.y, plan.y, &plan.algorithm, scratch_, kScratchBytes, stream),
             "a product");
}

}  // namespace carousel::cuda
