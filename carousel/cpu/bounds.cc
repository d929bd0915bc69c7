// SPDX-License-Identifier: Apache-2.0
// Times the loops of bounds_cpu.cc. Rounds are interleaved, so that a busy minute of a shared machine hits all alike.
#include "carousel/cpu/bounds.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>

#include "carousel/core/error.h"
#include "carousel/cpu/bounds_kernels.h"

namespace carousel::cpu {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kFirstIterations = 1000;
constexpr double kProbeSeconds = 0.02;
constexpr int64_t kUnit = 256;  // floats that the loops take at once
// One size that fits each level of cache of current machines: L1, L2, and a share of the last level.
constexpr size_t kCacheSizes[] = {size_t{16} << 10, size_t{256} << 10, size_t{2} << 20};

template <class F>
double seconds_of(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::max(1e-9, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}
/// The best of two runs: a short loop that was interrupted would pass for a long one.
template <class F>
double calm_seconds_of(const F& f) {
  const double first = seconds_of(f);
  return std::min(first, seconds_of(f));
}

using ComputeKernel = void (*)(const Stream&, const BoundsCompute&);

/// 10^9 operations per second of one loop of `kernel` over about `target` seconds; 0 if the set has no such
/// instruction.
double loop_rate(const Stream& stream, ComputeKernel kernel, BoundsCompute args, double target) {
  for (;;) {
    const double seconds = calm_seconds_of([&] { kernel(stream, args); });
    if (*args.n_flops == 0) return 0;
    if (seconds >= target / 2) {
      return static_cast<double>(*args.n_flops) * static_cast<double>(args.tasks) / seconds * 1e-9;
    }
    args.iterations *= 2;
  }
}

/// The highest rate(loop) of all loops.
template <class F>
double best_loop(const F& rate) {
  double best = 0;
  for (int loop = 0; loop < kBoundsLoops; ++loop) best = std::max(best, rate(loop));
  return best;
}

double compute_rate(const Stream& stream, ComputeKernel kernel, const Tensor& results, double target) {
  int64_t n_flops = 0;
  return best_loop([&](int loop) {
    return loop_rate(stream, kernel, {loop, kFirstIterations, results.count(), results.f32(), &n_flops}, target);
  });
}

}  // namespace

BoundsProbe::BoundsProbe(const Stream& stream, size_t memory_bytes, double seconds)
    : stream_(stream), seconds_(seconds), tasks_(stream.pool->threads() * kTasksPerThread) {
  const int64_t unit = kUnit * tasks_;
  count_ = std::max<int64_t>(1, static_cast<int64_t>(memory_bytes / sizeof(float)) / unit) * unit;
  memory_ = Tensor({count_}, DType::kF32);
  results_ = Tensor({tasks_}, DType::kF32);
  scale_gb_per_s();  // the first write of a page, which maps it
}

double BoundsProbe::read_gb_per_s() {
  return best_loop([&](int loop) {
    const BoundsMemory args{loop, memory_.f32(), count_, tasks_, results_.f32()};
    const double seconds = calm_seconds_of([&] { kernels::bounds_read(stream_, args); });
    return static_cast<double>(memory_.size_bytes()) / seconds * 1e-9;
  });
}

double BoundsProbe::scale_gb_per_s() {
  return best_loop([&](int loop) {
    const BoundsMemory args{loop, memory_.f32(), count_, tasks_, results_.f32()};
    const double seconds = calm_seconds_of([&] { kernels::bounds_scale(stream_, args); });
    return 2 * static_cast<double>(memory_.size_bytes()) / seconds * 1e-9;
  });
}

double BoundsProbe::f32_gflop_per_s() { return compute_rate(stream_, kernels::bounds_f32, results_, seconds_); }
double BoundsProbe::bf16_gflop_per_s() { return compute_rate(stream_, kernels::bounds_bf16, results_, seconds_); }
double BoundsProbe::int8_gop_per_s() { return compute_rate(stream_, kernels::bounds_int8, results_, seconds_); }

double BoundsProbe::cache_read_gb_per_s(size_t bytes_per_thread) {
  const int64_t threads = stream_.pool->threads();
  const int64_t asked = static_cast<int64_t>(bytes_per_thread / sizeof(float)) / kUnit * kUnit;
  const int64_t count = std::clamp<int64_t>(asked, kUnit, count_ / threads / kUnit * kUnit);
  return best_loop([&](int loop) {
    BoundsCache args{loop, memory_.f32(), count, threads, 1, results_.f32()};
    kernels::bounds_cache(stream_, args);  // reads x into the caches
    for (;;) {
      const double seconds = calm_seconds_of([&] { kernels::bounds_cache(stream_, args); });
      if (seconds >= seconds_ / 2) {
        const double floats = static_cast<double>(count) * static_cast<double>(threads * args.passes);
        return floats * sizeof(float) / seconds * 1e-9;
      }
      args.passes *= 2;
    }
  });
}

Bounds measure_bounds(const Stream& stream, int rounds, const std::function<bool()>& stopped, size_t memory_bytes) {
  CAROUSEL_ASSERT(rounds >= 1);
  BoundsProbe probe(stream, memory_bytes, kProbeSeconds);
  Bounds best;
  for (const size_t bytes : kCacheSizes) best.caches.push_back({bytes, 0});
  const auto raise = [](double& rate, double seen) { rate = std::max(rate, seen); };
  for (int round = 0; round < rounds && (round == 0 || !stopped()); ++round) {
    raise(best.read_gb_per_s, probe.read_gb_per_s());
    raise(best.scale_gb_per_s, probe.scale_gb_per_s());
    raise(best.f32_gflop_per_s, probe.f32_gflop_per_s());
    raise(best.bf16_gflop_per_s, probe.bf16_gflop_per_s());
    raise(best.int8_gop_per_s, probe.int8_gop_per_s());
    for (CacheRead& cache : best.caches) raise(cache.gb_per_s, probe.cache_read_gb_per_s(cache.bytes_per_thread));
  }
  return best;
}

size_t last_level_cache_bytes() {
  size_t kibibytes = 0;
  for (const char* level : {"index3", "index2"}) {
    std::ifstream file(std::string("/sys/devices/system/cpu/cpu0/cache/") + level + "/size");  // "32768K"
    if (file >> kibibytes) return kibibytes << 10;
  }
  return 0;
}

}  // namespace carousel::cpu
