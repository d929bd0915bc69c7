// SPDX-License-Identifier: Apache-2.0
// Where work runs: the memory its tensors are in, the instruction set its CPU kernels use, and their threads.
#pragma once

#include "carousel/core/parallel.h"
#include "carousel/core/tensor.h"

namespace carousel {

enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kNeon, kNeonDotprod };

/// What products of f32 activations with bf16 weights are computed in: f32 exactly, or bf16 with f32 sums.
enum class Compute : uint8_t { kF32, kBF16 };

struct Stream {
  Memory* memory = &Memory::host();
  Isa isa = Isa::kPortable;
  ThreadPool* pool = nullptr;  // never null on kCpu; on kMeta the threads that are counted on, null for one
  Compute compute = Compute::kF32;

  Device device() const { return memory->device(); }
  int threads() const { return pool != nullptr ? pool->threads() : 1; }
};

}  // namespace carousel
