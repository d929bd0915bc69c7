// SPDX-License-Identifier: Apache-2.0
// Stands in for gpu.cc where carousel is built without CUDA.
#include "carousel/core/error.h"
#include "carousel/cuda/gpu.h"

namespace carousel::cuda {

Gpu& Gpu::open(int index) { fail(ErrorKind::kDevice, "cuda:{}: this carousel was built without CUDA", index); }

}  // namespace carousel::cuda
