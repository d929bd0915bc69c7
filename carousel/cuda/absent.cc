// SPDX-License-Identifier: Apache-2.0
// Stands in for gpu.cc where carousel is built without CUDA. There is no Gpu then, so nothing but open() is called.
#include "carousel/core/error.h"
#include "carousel/cuda/gpu.h"

namespace carousel::cuda {

Gpu& Gpu::open(int index) { fail(ErrorKind::kDevice, "cuda:{}: this carousel was built without CUDA", index); }
void Gpu::run_plain(uint32_t) {}

}  // namespace carousel::cuda
