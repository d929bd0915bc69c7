// SPDX-License-Identifier: Apache-2.0
// Measures what this GPU reaches at best: by a large copy, chains of multiply-adds, and a large product of cuBLASLt.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>

#include "carousel/cuda/gemm.cuh"
#include "carousel/cuda/launch.cuh"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256, kChains = 16, kSteps = 2048;
constexpr size_t kMostCopied = size_t{1} << 30;
constexpr int64_t kProductSize = 8192;

/// Each thread has 16 chains of dependent multiply-adds.
__global__ void multiply_add(float* out, float factor) {
  float sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = static_cast<float>(threadIdx.x + i);
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) sums[i] = fmaf(sums[i], factor, 1.0f);
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += sums[i];
  if (sum == -1) *out = sum;  // never: the sums are used
}

/// Values of order one whose bits differ: a GPU multiplies zeros with less power, and so faster.
__global__ void fill(__nv_bfloat16* values, int64_t count) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const auto bits = static_cast<uint32_t>(i) * 2654435761u;
    values[i] = __float2bfloat16(static_cast<float>(bits >> 8) / 8388608.0f - 1.0f);
  }
}

/// A block of the GPU's memory.
class Block {
 public:
  Block(Gpu& gpu, size_t size_bytes) : gpu_(gpu), granted_(gpu.granted(size_bytes)), bytes_(gpu.allocate(granted_)) {}
  ~Block() { gpu_.release(bytes_, granted_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* bytes() const { return bytes_; }

 private:
  Gpu& gpu_;
  size_t granted_;
  std::byte* bytes_;
};

/// The least seconds of several calls of work(), each between two events of the queue.
template <class F>
double least_seconds(cudaStream_t queue, const F& work) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  float least = INFINITY;
  for (int i = 0; i < 4; ++i) {
    float milliseconds = 0;
    check(cudaEventRecord(begin, queue), "event");
    work();
    check(cudaEventRecord(end, queue), "event");
    check(cudaEventSynchronize(end), "waiting for the GPU");
    check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    least = std::min(least, milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return 1e-3 * least;
}

double copy_rate(Gpu& gpu) {
  const size_t size_bytes = std::min(kMostCopied, gpu.available_bytes() / 8);
  const Block from(gpu, size_bytes), to(gpu, size_bytes);
  const cudaStream_t queue = gpu.impl().stream;
  const double seconds = least_seconds(queue, [&] {
    check(cudaMemcpyAsync(to.bytes(), from.bytes(), size_bytes, cudaMemcpyDeviceToDevice, queue), "copy on the GPU");
  });
  return 2e-9 * static_cast<double>(size_bytes) / seconds;
}

double f32_rate(Gpu& gpu) {
  const Block out(gpu, sizeof(float));
  const int blocks = gpu.impl().multiprocessors * 16;
  const double seconds = least_seconds(gpu.impl().stream, [&] {
    multiply_add<<<blocks, kThreads, 0, gpu.impl().stream>>>(reinterpret_cast<float*>(out.bytes()), 0.999f);
    launched("the f32 rate");
  });
  return 2e-9 * blocks * kThreads * static_cast<double>(kChains) * kSteps / seconds;
}

double bf16_rate(Gpu& gpu) {
  Gemm* const gemm = gpu.impl().gemm();
  if (gemm == nullptr) return 0;
  constexpr int64_t kCount = kProductSize * kProductSize;
  const Block x(gpu, 2 * kCount), w(gpu, 2 * kCount), y(gpu, 4 * kCount);
  for (const Block* const block : {&x, &w}) {
    fill<<<1024, kThreads, 0, gpu.impl().stream>>>(reinterpret_cast<__nv_bfloat16*>(block->bytes()), kCount);
  }
  launched("the bf16 rate");
  const GemmCall call = {x.bytes(),    w.bytes(),   reinterpret_cast<float*>(y.bytes()), kProductSize, kProductSize,
                         kProductSize, kProductSize};
  const double seconds = least_seconds(gpu.impl().stream, [&] { gemm->run(call, gpu.impl().stream); });
  return 2e-9 * static_cast<double>(kCount) * kProductSize / seconds;
}

}  // namespace

std::optional<DeviceRates> Gpu::measure_rates() {
  check(cudaSetDevice(impl_->index), "choosing the GPU");
  return DeviceRates{copy_rate(*this), f32_rate(*this), bf16_rate(*this)};
}

}  // namespace carousel::cuda
