// SPDX-License-Identifier: Apache-2.0
// Where work runs: the memory its tensors lie in, the instruction set of its CPU kernels, and their threads.
#pragma once

#include "carousel/core/parallel.h"
#include "carousel/core/tensor.h"

namespace carousel {

enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kNeon, kNeonDotprod };

/// How f32 activations are multiplied with bf16 weights: in f32, exactly, or in bf16 with f32 sums.
enum class Compute : uint8_t { kF32, kBF16 };

/// Is told of every call through kernels:: on a stream, those that a kernel makes included.
class OpWatch {
 public:
  virtual ~OpWatch() = default;
  /// `args` is the struct that the kernel `op` is called with.
  virtual void begin(const char* op, const void* args) = 0;
  virtual void end() = 0;
};

struct Stream {
  Memory* memory = &Memory::host();
  Isa isa = Isa::kPortable;
  ThreadPool* pool = nullptr;  // never null on kCpu; on kMeta its size alone counts, and null means one thread
  Compute compute = Compute::kF32;
  OpWatch* watch = nullptr;  // null: nobody is told

  Device device() const { return memory->device(); }
  int threads() const { return pool != nullptr ? pool->threads() : 1; }
};

}  // namespace carousel
