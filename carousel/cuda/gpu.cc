// SPDX-License-Identifier: Apache-2.0
// Opening a GPU, its memory, and copies to and from it.
//
// 1. All work goes to one queue. A block is taken and released in the order of the queue, so it may be handed out again
//    while kernels that read it before are still waiting to run.
// 2. A copy from the host goes through pinned pieces (Staging), and threads that copy at once fill different ones. The
//    caller may reuse its bytes at once.
// 3. A copy to the host waits for the queue. It goes through pinned pieces too, and no other thread copies meanwhile.
// 4. A thread that records (recording.cc) has its kernels in a queue of its own. Blocks are taken and released in the
//    one queue all the same, so that what was recorded may use them whenever it runs.
#include "carousel/cuda/gpu.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/meta_memory.h"
#include "carousel/cuda/gemm.cuh"
#include "carousel/cuda/launch.cuh"

namespace carousel::cuda {
namespace {

constexpr int kMostGpus = 64;
constexpr size_t kSmallPiece = size_t{64} << 10, kLargePiece = size_t{2} << 20;
constexpr size_t kUnit = 512, kLargeUnit = size_t{2} << 20;

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t granted_bytes_for(size_t size_bytes) {
  if (size_bytes > SIZE_MAX - kLargeUnit) fail(ErrorKind::kIo, "out of memory: cannot allocate {} bytes", size_bytes);
  return round_up(size_bytes, size_bytes >= kLargeUnit ? kLargeUnit : kUnit);
}

/// Grants what a GPU would.
class CountedGpu final : public MetaMemory {
 public:
  explicit CountedGpu(size_t shared_bytes) : shared_bytes_(shared_bytes) {}
  bool is_apart() const override { return true; }
  Device kernels() const override { return Device::kCuda; }
  Memory& counted() override { return *this; }
  size_t shared_bytes() const override { return shared_bytes_; }
  size_t granted(size_t size_bytes) const override { return granted_bytes_for(size_bytes); }

 private:
  size_t shared_bytes_;
};

class GpuMoment final : public Moment {
 public:
  explicit GpuMoment(cudaStream_t queue) {
    check(cudaEventCreate(&event_), "a moment");
    check(cudaEventRecord(event_, queue), "a moment");
  }
  ~GpuMoment() override { cudaEventDestroy(event_); }
  GpuMoment(const GpuMoment&) = delete;
  GpuMoment& operator=(const GpuMoment&) = delete;
  double seconds_since(const Moment& earlier) const override {
    float milliseconds = 0;
    check(cudaEventSynchronize(event_), "waiting for the GPU");
    check(cudaEventElapsedTime(&milliseconds, static_cast<const GpuMoment&>(earlier).event_, event_), "a moment");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Memory of the host that the GPU writes to itself.
class PinnedMemory final : public Memory {
 public:
  Device device() const override { return Device::kCpu; }
  size_t granted(size_t size_bytes) const override { return Memory::host().granted(size_bytes); }
  std::byte* allocate(size_t granted_bytes) override {
    if (granted_bytes == 0) return nullptr;
    void* bytes = nullptr;
    check(cudaHostAlloc(&bytes, granted_bytes, cudaHostAllocPortable), "pinned memory");
    zero(static_cast<std::byte*>(bytes), granted_bytes);
    return static_cast<std::byte*>(bytes);
  }
  void release(std::byte* bytes, size_t) noexcept override { cudaFreeHost(bytes); }
  void zero(std::byte* bytes, size_t size_bytes) override { std::memset(bytes, 0, size_bytes); }

 private:
  void copy_between(const Memory&, const std::byte* here, const Memory&, std::byte* there, size_t size_bytes) override {
    if (size_bytes > 0) std::memcpy(there, here, size_bytes);
  }
};

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, index), "device attribute");
  return value;
}

/// Whether every later call fails too.
bool ends_device(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would report it again
  fail(ends_device(status) ? ErrorKind::kLost : ErrorKind::kDevice, "cuda: {}: {}", what, cudaGetErrorString(status));
}

void check_shared(const Stream& stream, size_t bytes, const char* what) {
  if (bytes > stream.memory->shared_bytes()) fail(ErrorKind::kDevice, "{}: not on this device", what);
}

Staging::Staging(size_t pieces, size_t piece_bytes) : pieces_(pieces), piece_bytes_(piece_bytes) {
  CAROUSEL_ASSERT(pieces <= kMost);
  void* pinned = nullptr;
  check(cudaHostAlloc(&pinned, pieces * piece_bytes, cudaHostAllocDefault), "pinned memory");
  pinned_ = static_cast<std::byte*>(pinned);
  for (size_t i = 0; i < pieces; ++i) check(cudaEventCreateWithFlags(&passed_[i], cudaEventDisableTiming), "event");
}

void Staging::copy(const std::byte* here, std::byte* there, size_t size_bytes, cudaStream_t stream) {
  const size_t piece = next_.fetch_add(1) % pieces_;
  const std::lock_guard lock(busy_[piece]);
  check(cudaEventSynchronize(passed_[piece]), "copy to the GPU");
  std::byte* const pinned = pinned_ + piece * piece_bytes_;
  std::memcpy(pinned, here, size_bytes);
  check(cudaMemcpyAsync(there, pinned, size_bytes, cudaMemcpyHostToDevice, stream), "copy to the GPU");
  check(cudaEventRecord(passed_[piece], stream), "copy to the GPU");
}

void Staging::fetch(const std::byte* here, std::byte* there, size_t size_bytes, cudaStream_t stream) {
  const auto bytes_of = [&](size_t i) { return std::min(piece_bytes_, size_bytes - i * piece_bytes_); };
  const size_t first = next_.load();
  const auto ask = [&](size_t i) {
    const size_t piece = (first + i) % pieces_;
    check(cudaEventSynchronize(passed_[piece]), "copy from the GPU");
    check(cudaMemcpyAsync(pinned_ + piece * piece_bytes_, here + i * piece_bytes_, bytes_of(i), cudaMemcpyDeviceToHost,
                          stream),
          "copy from the GPU");
    check(cudaEventRecord(passed_[piece], stream), "copy from the GPU");
  };
  const size_t count = (size_bytes + piece_bytes_ - 1) / piece_bytes_, ahead = std::min(count, pieces_ - 1);
  for (size_t i = 0; i < ahead; ++i) ask(i);
  for (size_t i = 0; i < count; ++i) {
    const size_t piece = (first + i) % pieces_;
    check(cudaEventSynchronize(passed_[piece]), "waiting for the GPU");
    std::memcpy(there + i * piece_bytes_, pinned_ + piece * piece_bytes_, bytes_of(i));
    if (i + ahead < count) ask(i + ahead);
  }
  next_.store((first + count) % pieces_);
}

Gemm* Gpu::Impl::gemm() {
  std::call_once(gemm_opened_, [&] { gemm_ = open_gemm(); });
  return gemm_;
}

Gpu::Impl::Impl(int which) : index(which), small(64, kSmallPiece), large(8, kLargePiece) {
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
  shared_bytes = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  is_hopper = attribute(cudaDevAttrComputeCapabilityMajor, index) == 9 &&
              attribute(cudaDevAttrComputeCapabilityMinor, index) == 0;
  pooled = attribute(cudaDevAttrMemoryPoolsSupported, index) != 0;
  if (pooled) {
    cudaMemPool_t pool = nullptr;
    uint64_t keep = UINT64_MAX;  // what is released is kept for the next block, not given back at every wait
    check(cudaDeviceGetDefaultMemPool(&pool, index), "memory pool");
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "memory pool");
  }
  counted = new CountedGpu(shared_bytes);
  landing = new PinnedMemory;
  check(cudaMalloc(&arrived, kArrivals * sizeof(int)), "memory for counters");
  check(cudaMemset(arrived, 0, kArrivals * sizeof(int)), "memory for counters");
  check(cudaDeviceSynchronize(), "memory for counters");
}

Gpu& Gpu::open(int index) {
  static std::mutex mutex;
  static std::array<Gpu*, kMostGpus> gpus{};
  const std::lock_guard lock(mutex);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    fail(ErrorKind::kDevice, "cuda:{}: no GPU can be used here: {}", index,
         status != cudaSuccess ? cudaGetErrorString(status) : "there is none");
  }
  count = std::min(count, kMostGpus);
  if (index < 0 || index >= count) fail(ErrorKind::kDevice, "cuda:{}: expected cuda:0 to cuda:{}", index, count - 1);
  Gpu*& gpu = gpus[static_cast<size_t>(index)];
  if (gpu == nullptr) gpu = new Gpu(index);
  return *gpu;
}

Gpu::Gpu(int index) {
  check(cudaSetDevice(index), "opening the GPU");
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "opening the GPU");
  if (major < 8) {
    fail(ErrorKind::kDevice, "cuda:{}: {} has compute capability {}.{}, expected 8.0 or later", index, properties.name,
         major, attribute(cudaDevAttrComputeCapabilityMinor, index));
  }
  impl_ = std::make_unique<Impl>(index);
  std::snprintf(impl_->name, sizeof impl_->name, "%s", properties.name);
}

Gpu::~Gpu() = default;

Gpu::Impl& gpu_of(const Stream& stream) {
  Gpu::Impl& impl = static_cast<Gpu*>(stream.memory)->impl();
  check(cudaSetDevice(impl.index), "choosing the GPU");
  return impl;
}

size_t Gpu::shared_bytes() const { return impl_->shared_bytes; }
Memory& Gpu::counted() { return *impl_->counted; }
Memory& Gpu::landing() { return *impl_->landing; }

size_t Gpu::granted(size_t size_bytes) const { return granted_bytes_for(size_bytes); }

std::byte* Gpu::allocate(size_t granted_bytes) {
  if (granted_bytes == 0) return nullptr;
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  void* bytes = nullptr;
  const cudaError_t status =
      impl_->pooled ? cudaMallocAsync(&bytes, granted_bytes, impl_->stream) : cudaMalloc(&bytes, granted_bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the error is told here, and not again by the next launch
    fail(ErrorKind::kDevice, "{}: out of memory: cannot allocate {} bytes, {} are free", name(), granted_bytes,
         available_bytes());
  }
  check(status, "allocation");
  check(cudaMemsetAsync(bytes, 0, granted_bytes, impl_->stream), "zeroing");
  return static_cast<std::byte*>(bytes);
}

void Gpu::release(std::byte* bytes, size_t) noexcept {
  if (bytes == nullptr || cudaSetDevice(impl_->index) != cudaSuccess) return;
  if (impl_->pooled) {
    cudaFreeAsync(bytes, impl_->stream);
  } else {
    cudaFree(bytes);
  }
}

void Gpu::zero(std::byte* bytes, size_t size_bytes) {
  if (size_bytes == 0) return;
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  check(cudaMemsetAsync(bytes, 0, size_bytes, impl_->queue()), "zeroing");
}

void Gpu::copy_between(const Memory& from, const std::byte* here, const Memory& to, std::byte* there,
                       size_t size_bytes) {
  if (size_bytes == 0) return;
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  const cudaStream_t stream = impl_->queue();
  if (&from != &to && impl_->is_recording()) fail(ErrorKind::kDevice, "{}: a copy cannot be recorded", name());
  if (&from == &to) {
    check(cudaMemcpyAsync(there, here, size_bytes, cudaMemcpyDeviceToDevice, stream), "copy on the GPU");
  } else if (&to == this) {
    CAROUSEL_ASSERT(from.device() == Device::kCpu);
    const std::shared_lock lock(impl_->copying);
    Staging& staging = size_bytes <= kSmallPiece ? impl_->small : impl_->large;
    for (size_t done = 0; done < size_bytes; done += staging.piece_bytes()) {
      staging.copy(here + done, there + done, std::min(staging.piece_bytes(), size_bytes - done), stream);
    }
  } else if (&to == impl_->landing) {
    check(cudaMemcpyAsync(there, here, size_bytes, cudaMemcpyDeviceToHost, stream), "copy from the GPU");
    check(cudaStreamSynchronize(stream), "waiting for the GPU");
  } else {
    CAROUSEL_ASSERT(to.device() == Device::kCpu);
    const std::lock_guard lock(impl_->copying);
    impl_->large.fetch(here, there, size_bytes, stream);
  }
}

std::unique_ptr<Moment> Gpu::moment() {
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  return std::make_unique<GpuMoment>(impl_->queue());
}

std::string Gpu::name() const { return fmt::format("cuda:{} ({})", impl_->index, impl_->name); }

void Gpu::run_plain(uint32_t kernels) { impl_->plain = kernels; }

size_t Gpu::available_bytes() const {
  size_t free = 0, total = 0;
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  check(cudaMemGetInfo(&free, &total), "free memory");
  if (!impl_->pooled) return free;
  cudaMemPool_t pool = nullptr;
  uint64_t reserved = 0, used = 0;
  check(cudaDeviceGetDefaultMemPool(&pool, impl_->index), "memory pool");
  check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "memory pool");
  check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "memory pool");
  return free + static_cast<size_t>(reserved - std::min(used, reserved));
}

}  // namespace carousel::cuda
