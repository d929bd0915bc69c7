// SPDX-License-Identifier: Apache-2.0
// Where the bytes of tensors are. Storage, Arena, Tensor and State move bytes through this interface alone, so a device
// is one more implementation of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

namespace carousel {

enum class Device : uint8_t {
  kCpu,
  kMeta,  // shapes only: counts parameters, bytes and states without allocating
  kCuda,  // an NVIDIA GPU (cuda/gpu.h)
};

/// Work that a device recorded. run() asks the device for all of it again, on what its memory holds by then.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void run() = 0;
};

/// A point in the queue of work of a device.
class Moment {
 public:
  virtual ~Moment() = default;
  /// `earlier` is of the same device. Waits until the device has come to both.
  virtual double seconds_since(const Moment& earlier) const = 0;
};

/// The rates that a device reaches at best.
struct DeviceRates {
  double copy_gb_per_s = 0;     // read and written, from its memory to its memory
  double f32_gflop_per_s = 0;   // multiply-adds, two operations each
  double bf16_gflop_per_s = 0;  // of large products with sums in f32; 0 where it has no library for them
};

/// The memory of one device. Any thread may call any of its functions.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual Device device() const = 0;
  /// Whether code of the host cannot read the bytes. Tables that kernels read are then copied to this memory, and
  /// matrices lie row by row, since panels are packed by code of the host.
  virtual bool is_apart() const { return false; }
  /// The device whose kernels work on the bytes. Meta names the one that it stands for: workspaces are sized for it.
  virtual Device kernels() const { return Device::kCpu; }
  /// Bytes of on-chip memory that threads which work together can share, where kernels have such.
  virtual size_t shared_bytes() const { return SIZE_MAX; }
  /// A meta that grants what this memory would, for counting what a run takes here.
  virtual Memory& counted() { return meta(); }
  /// Bytes that a request for `size_bytes` takes, at least as many. Throws Error(kIo) beyond the address space.
  virtual size_t granted(size_t size_bytes) const = 0;
  /// A zeroed block of a granted size; null for 0 bytes, and always on kMeta. Throws Error(kIo, kDevice) where it is
  /// refused.
  virtual std::byte* allocate(size_t granted_bytes) = 0;
  virtual void release(std::byte* bytes, size_t granted_bytes) noexcept = 0;
  virtual void zero(std::byte* bytes, size_t size_bytes) = 0;
  /// Copies `size_bytes` at `here` in `from` to `there` in `to`. Both are one memory, or one of them is the host's.
  static void copy(Memory& from, const std::byte* here, Memory& to, std::byte* there, size_t size_bytes) {
    (to.device() == Device::kCpu ? from : to).copy_between(from, here, to, there, size_bytes);
  }

  /// Memory of the host that copies from here reach fastest: for results that are fetched again and again.
  virtual Memory& landing() { return host(); }
  /// Bytes that are free for allocate().
  virtual size_t available_bytes() const { return SIZE_MAX; }
  /// Whether record() records.
  virtual bool records() const { return false; }
  /// Records what `work` asks of the device, without running any of it; null where records() is false. `work` may
  /// allocate, and must copy nothing between memories, which throws Error(kDevice). Other threads go on meanwhile.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& /*work*/) { return nullptr; }
  /// The point that the queue of work has now: what was asked for before lies before it.
  virtual std::unique_ptr<Moment> moment();
  /// The rates, as they are now; nothing where the code of the host is what works here (cpu/bounds.h).
  virtual std::optional<DeviceRates> measure_rates() { return std::nullopt; }

  /// Blocks are 64-byte aligned; from 4 MiB on they are page-aligned and ask for huge pages.
  static Memory& host();
  /// Grants what the host would, and has nothing: tensors on it have shapes and no bytes. What is copied from it to the
  /// host is zero there, so that code that reads results runs on meta too.
  static Memory& meta();

 protected:
  /// copy(), where this memory is one of the two sides.
  virtual void copy_between(const Memory& from, const std::byte* here, const Memory& to, std::byte* there,
                            size_t size_bytes) = 0;
};

}  // namespace carousel
