// SPDX-License-Identifier: Apache-2.0
// Stands in for gpu.cc where carousel is built without CUDA. There is no Gpu then, so nothing but open() is called;
// what is virtual is defined because sanitizers ask for the type of every object that a test casts.
#include "carousel/core/error.h"
#include "carousel/cuda/gpu.h"

namespace carousel::cuda {

struct Gpu::Impl {};

Gpu& Gpu::open(int index) { fail(ErrorKind::kDevice, "cuda:{}: this carousel was built without CUDA", index); }
Gpu::~Gpu() = default;
void Gpu::run_plain(uint32_t) {}

size_t Gpu::shared_bytes() const { return 0; }
Memory& Gpu::counted() { return *this; }
Memory& Gpu::landing() { return *this; }
size_t Gpu::granted(size_t size_bytes) const { return size_bytes; }
std::byte* Gpu::allocate(size_t) { return nullptr; }
void Gpu::release(std::byte*, size_t) noexcept {}
void Gpu::zero(std::byte*, size_t) {}
size_t Gpu::available_bytes() const { return 0; }
std::unique_ptr<Recording> Gpu::record(const std::function<void()>&) { return nullptr; }
std::unique_ptr<Moment> Gpu::moment() { return nullptr; }
std::optional<DeviceRates> Gpu::measure_rates() { return std::nullopt; }
void Gpu::copy_between(const Memory&, const std::byte*, const Memory&, std::byte*, size_t) {}

}  // namespace carousel::cuda
