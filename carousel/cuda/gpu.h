// SPDX-License-Identifier: Apache-2.0
// An NVIDIA GPU as a Memory. This header shows nothing of CUDA: where carousel is built without it, absent.cc answers
// open(), and no other function is called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "carousel/core/memory.h"

namespace carousel::cuda {

/// Kernels beside which an older, plainer way to the same result is kept, to compare the two on one machine.
enum class Fast : uint32_t {
  kMlstm = 1,       // chunks of the mLSTM on tensor cores; else in f32
  kStream = 2,      // products of few rows, 16 bytes of weights at a time; else an element
  kSlstm = 4,       // the sLSTM in clusters of blocks, R in registers; else a block per head, R from the cache
  kEarly = 8,       // kernels that start while the one before them ends; else one after the other
  kAttention = 16,  // attention by warpgroups (many rows) and by groups of heads (few); else by warps and head by head
};

/// The memory of one GPU and its queue of work. Copies, and all kernels whose stream has this memory, run in the order
/// of their calls; a copy to the host waits for what was called before it. Any thread may call any function.
class Gpu final : public Memory {
 public:
  /// GPU `index` of those that CUDA_VISIBLE_DEVICES leaves, opened by the first call and never closed. Throws
  /// Error(kDevice) where there is none, or one older than compute capability 8.0.
  static Gpu& open(int index);

  Device device() const override { return Device::kCuda; }
  bool is_apart() const override { return true; }
  Device kernels() const override { return Device::kCuda; }
  size_t shared_bytes() const override;
  Memory& counted() override;
  Memory& landing() override;
  size_t granted(size_t size_bytes) const override;
  /// Throws Error(kDevice) with what is free where the GPU has no such block.
  std::byte* allocate(size_t granted_bytes) override;
  void release(std::byte* bytes, size_t granted_bytes) noexcept override;
  void zero(std::byte* bytes, size_t size_bytes) override;
  /// Counts what the driver has free, and what its pool holds for the next block.
  size_t available_bytes() const override;
  bool records() const override { return true; }
  /// As a CUDA graph.
  std::unique_ptr<Recording> record(const std::function<void()>& work) override;
  std::unique_ptr<Moment> moment() override;
  std::optional<DeviceRates> measure_rates() override;

  std::string name() const;  // "cuda:0 (NVIDIA H200)"
  /// Takes the plain way around these kernels from the next call on: a sum of Fast values, 0 by default.
  void run_plain(uint32_t kernels);

  struct Impl;  // cuda/launch.cuh
  Impl& impl() const { return *impl_; }

 private:
  explicit Gpu(int index);
  ~Gpu() override;
  void copy_between(const Memory& from, const std::byte* here, const Memory& to, std::byte* there,
                    size_t size_bytes) override;

  std::unique_ptr<Impl> impl_;
};

}  // namespace carousel::cuda
