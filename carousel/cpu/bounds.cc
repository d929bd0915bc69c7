// SPDX-License-Identifier: Apache-2.0
// Rounds are interleaved, so that a busy minute of a shared machine falls on all bounds alike.
#include "carousel/cpu/bounds.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/tensor.h"
#include "carousel/cpu/bounds_kernels.h"

namespace carousel::cpu {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kFirstIterations = 1000;
constexpr double kComputeSeconds = 0.02;  // of one compute round

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

template <class F>
double seconds_of(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::max(1e-9, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

using ComputeKernel = void (*)(const Stream&, const BoundsCompute&);

/// 10^9 operations per second of `kernel` over about kComputeSeconds; 0 if the set has no such instruction.
double compute_rate(const Stream& stream, ComputeKernel kernel, std::vector<float>& results) {
  int64_t n_flops = 0;
  BoundsCompute args{kFirstIterations, static_cast<int64_t>(results.size()), results.data(), &n_flops};
  for (;;) {
    const double seconds = seconds_of([&] { kernel(stream, args); });
    if (n_flops == 0) return 0;
    if (seconds >= kComputeSeconds / 2) {
      return static_cast<double>(n_flops) * static_cast<double>(args.tasks) / seconds * 1e-9;
    }
    args.iterations *= 2;
  }
}

}  // namespace

Bounds measure_bounds(const Stream& stream, int rounds, size_t memory_bytes) {
  CAROUSEL_ASSERT(rounds >= 1);
  const int64_t tasks = stream.pool->threads() * kTasksPerThread;
  const int64_t unit = 256 * tasks;
  const int64_t count = std::max<int64_t>(1, static_cast<int64_t>(memory_bytes / sizeof(float)) / unit) * unit;
  const Tensor memory({count}, DType::kF32);
  std::vector<float> results(static_cast<size_t>(tasks));
  const BoundsMemory args{memory.f32(), count, tasks, results.data()};
  kernels::bounds_scale(stream, args);  // first touch: pages arrive

  std::vector<double> read, scale, f32, bf16;
  const double read_bytes = static_cast<double>(count) * sizeof(float);
  for (int round = 0; round < rounds; ++round) {
    read.push_back(read_bytes / seconds_of([&] { kernels::bounds_read(stream, args); }) * 1e-9);
    scale.push_back(2 * read_bytes / seconds_of([&] { kernels::bounds_scale(stream, args); }) * 1e-9);
    f32.push_back(compute_rate(stream, kernels::bounds_f32, results));
    bf16.push_back(compute_rate(stream, kernels::bounds_bf16, results));
  }
  return {median(read), median(scale), median(f32), median(bf16)};
}

}  // namespace carousel::cpu
