// SPDX-License-Identifier: Apache-2.0
// Every launch of a kernel takes its queue and its limits from here, and is checked here.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <mutex>

#include "carousel/core/stream.h"
#include "carousel/cuda/gpu.h"

namespace carousel::cuda {

/// Throws Error(kDevice) "what: CUDA's words" unless `status` is success.
void check(cudaError_t status, const char* what);

class Gemm;

/// Pinned pieces of host memory, through which copies to the GPU go one after the other. A piece may be written again
/// when its event has passed.
class Staging {
 public:
  Staging(size_t pieces, size_t piece_bytes);
  size_t piece_bytes() const { return piece_bytes_; }
  /// Copies at most piece_bytes to the GPU, in the order of `stream`. `here` may change at once.
  void copy(const std::byte* here, std::byte* there, size_t size_bytes, cudaStream_t stream);

 private:
  static constexpr size_t kMost = 64;
  size_t pieces_, piece_bytes_;
  std::byte* pinned_ = nullptr;
  cudaEvent_t passed_[kMost];
  size_t next_ = 0;
};

struct Gpu::Impl {
  explicit Impl(int which);

  int index;
  cudaStream_t stream = nullptr;  // the one queue of work
  /// The queue that this thread's calls go to: `stream`, or the one that it records from.
  cudaStream_t queue() const;
  bool is_recording() const { return queue() != stream; }  // this thread
  int multiprocessors = 0;
  size_t shared_bytes = 0;  // that one block may have
  bool pooled = false;      // whether blocks come from the driver's pool
  bool is_hopper = false;   // compute capability 9.0, which the code for sm_90a runs on
  char name[256];
  std::mutex copying;  // guards both stagings
  Staging small, large;
  Memory* counted = nullptr;
  std::atomic<uint32_t> plain{0};  // what Gpu::run_plain() was told
  bool runs(Fast kernels) const { return (plain.load() & static_cast<uint32_t>(kernels)) == 0; }
  /// Opened by the first call, since few runs need it; null: cuBLASLt was not found.
  Gemm* gemm();

 private:
  std::once_flag gemm_opened_;
  Gemm* gemm_ = nullptr;
};

/// The GPU of a stream, made the calling thread's.
Gpu::Impl& gpu_of(const Stream& stream);
inline cudaStream_t queue_of(const Stream& stream) { return gpu_of(stream).queue(); }

/// Checks launches: called after those of an op, since the first error is kept until it is asked for.
inline void launched(const char* kernel) { check(cudaGetLastError(), kernel); }

/// Lets `kernel` have `bytes` of shared memory, where that is more than every kernel has. What another call was allowed
/// is never taken back.
template <class Kernel>
void allow_shared(Kernel* kernel, size_t bytes) {
  constexpr size_t kUnasked = 32 << 10;  // of 48 KB, towards which a kernel's static shared memory counts
  if (bytes <= kUnasked) return;
  static std::mutex raising;
  const std::lock_guard lock(raising);
  cudaFuncAttributes known;
  check(cudaFuncGetAttributes(&known, kernel), "shared memory");
  if (known.maxDynamicSharedSizeBytes >= static_cast<int>(bytes)) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory");
}

constexpr int64_t blocks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

}  // namespace carousel::cuda
