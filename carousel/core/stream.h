// SPDX-License-Identifier: Apache-2.0
// Where work runs: a device, the instruction set its CPU kernels use, and the threads they run on.
#pragma once

#include "carousel/core/parallel.h"
#include "carousel/core/tensor.h"

namespace carousel {

enum class Isa : uint8_t { kPortable, kAvx2, kAvx512 };

struct Stream {
  Device device = Device::kCpu;
  Isa isa = Isa::kPortable;
  ThreadPool* pool = nullptr;  // never null on kCpu
};

}  // namespace carousel
