// SPDX-License-Identifier: Apache-2.0
// Every launch of a kernel takes its queue and its limits from here, and is checked here.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "carousel/core/stream.h"
#include "carousel/cuda/gpu.h"

namespace carousel::cuda {

/// Throws Error(kDevice) "what: CUDA's words" unless `status` is success; Error(kLost) where the GPU can do nothing
/// more for this process.
void check(cudaError_t status, const char* what);

class Gemm;

/// Pinned pieces of host memory, through which copies to and from the GPU go. A piece may be written again when its
/// event has passed.
class Staging {
 public:
  Staging(size_t pieces, size_t piece_bytes);
  size_t piece_bytes() const { return piece_bytes_; }
  /// Copies at most piece_bytes to the GPU, in the order of `stream`. `here` may change at once. Several threads may
  /// copy, each through pieces of its own.
  void copy(const std::byte* here, std::byte* there, size_t size_bytes, cudaStream_t stream);
  /// Copies any number of bytes from the GPU, and waits for them. Nobody may copy meanwhile.
  void fetch(const std::byte* here, std::byte* there, size_t size_bytes, cudaStream_t stream);

 private:
  static constexpr size_t kMost = 64;
  size_t pieces_, piece_bytes_;
  std::byte* pinned_ = nullptr;
  cudaEvent_t passed_[kMost];
  std::mutex busy_[kMost];  // of each piece, while a thread fills it
  std::atomic<size_t> next_{0};
};

/// A kernel whose launch waits, since the kernel that reads its result may do its work on the way. Nothing is launched
/// between the two, but memory may have been released and handed out again, to the second kernel's results.
struct HeldBack {
  explicit HeldBack(const void* computed) : result(computed) {}
  virtual ~HeldBack() = default;
  virtual void launch() const = 0;

  const void* const result;
};

/// Bytes of the GPU's memory.
struct Span {
  const void* at;
  size_t size_bytes;
};

struct Gpu::Impl {
  explicit Impl(int which);

  int index;
  cudaStream_t stream = nullptr;  // the one queue of work
  /// The queue that this thread's calls go to: `stream`, or the one that it records from. Launches what is held back.
  cudaStream_t queue() const;
  /// Holds a kernel back where this thread records. Elsewhere it launches it: its result could be read before this
  /// thread launches another.
  void hold_back(std::unique_ptr<const HeldBack> kernel) const;
  /// The kernel that is held back and computes `result`, which the caller then does or launches; null: none.
  std::unique_ptr<const HeldBack> take_held(const void* result) const;
  /// Says that the last kernel wrote to these spans alone, of those that a later kernel may ask about.
  void wrote(std::initializer_list<Span> spans) const;
  /// Whether the last kernel is known to have left a span alone. The kernel after it may then read the span before it
  /// calls await_inputs(), past the first cache: what wrote it has ended before the last one's await_inputs().
  bool has_left(const void* at, size_t size_bytes) const;
  bool is_recording() const;  // this thread
  int multiprocessors = 0;
  size_t shared_bytes = 0;  // that one block may have
  bool pooled = false;      // whether blocks come from the driver's pool
  bool is_hopper = false;   // compute capability 9.0, which the code for sm_90a runs on
  char name[256];
  std::shared_mutex copying;  // of both stagings: shared by copies to the GPU, held alone by those from it
  std::mutex launching;       // held while kernels that share cuBLASLt's scratch memory go to the queue
  Staging small, large;
  Memory *counted = nullptr, *landing = nullptr;
  static constexpr int64_t kArrivals = int64_t{1} << 18;
  int* arrived = nullptr;          // [kArrivals] zeros between kernels: counts blocks that have passed a point
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

/// Throws Error(kDevice) "what: not on this device" where a block needs more shared memory than the stream's GPU has
/// for it, or the one that its meta stands for. For *_workspace functions: loading a model calls them too.
void check_shared(const Stream& stream, size_t bytes, const char* what);

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

/// Launches a kernel that may start while the one before it in the queue still runs (programmatic dependent launch), so
/// that its beginning is hidden. Such a kernel calls await_inputs() before it reads or writes what another kernel
/// touches (but see has_left()), and every thread of it does so.
template <class... Params, class... Args>
void launch_early(const Gpu::Impl& gpu, void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared_bytes,
                  const Args&... args) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = gpu.queue();
  config.attrs = &early;
  config.numAttrs = gpu.is_hopper && gpu.runs(Fast::kEarly) ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), "a launch");
}
#if defined(__CUDACC__)
/// Waits until the kernels before this one have ended, and what they wrote is seen. The kernel after this one may then
/// start, so what it finds before its own call is what this one found after it, but for what this one writes.
__device__ inline void await_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

/// Blocks of a kernel that the GPU runs at a time.
template <class Kernel>
int64_t resident_blocks(const Gpu::Impl& gpu, Kernel* kernel, int threads, size_t shared_bytes) {
  thread_local size_t known_bytes = SIZE_MAX;  // of this kernel's type: others of the same type have other answers
  thread_local Kernel* known = nullptr;
  thread_local int blocks = 0;
  if (known != kernel || known_bytes != shared_bytes) {
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes), "occupancy");
    known = kernel;
    known_bytes = shared_bytes;
  }
  return int64_t{gpu.multiprocessors} * std::max(blocks, 1);
}

constexpr int64_t kMostBlocks = 65535;  // along the second or third axis of a grid
constexpr int64_t blocks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

}  // namespace carousel::cuda
