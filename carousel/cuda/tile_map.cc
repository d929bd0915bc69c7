// SPDX-License-Identifier: Apache-2.0
// Maps of matrices for copies of tiles. The driver makes them, and is asked for the function by name, so the
// library is not linked.
#include "carousel/cuda/tile_map.cuh"

#include <cudaTypedefs.h>

#include "carousel/core/error.h"
#include "carousel/cuda/launch.cuh"

namespace carousel::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "looking for cuTensorMapEncodeTiled");
  if (result != cudaDriverEntryPointSuccess || found == nullptr) {
    fail(ErrorKind::kDevice, "cuda: the driver has no cuTensorMapEncodeTiled, expected that of CUDA 12.0 or later");
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

}  // namespace

CUtensorMap tile_map(const void* matrix, int64_t rows, int64_t columns, int64_t stride) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encoder();
  CAROUSEL_ASSERT(fits_tile_map(matrix, stride));
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t tile[2] = {kTileColumnsOfMap, kTileRows}, steps[2] = {1, 1};
  CUtensorMap map;
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix), sizes, strides,
                                 tile, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(ErrorKind::kDevice, "cuda: cuTensorMapEncodeTiled of [{}, {}]: status {}", rows, columns,
         static_cast<int>(status));
  }
  return map;
}

}  // namespace carousel::cuda
