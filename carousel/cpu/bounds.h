// SPDX-License-Identifier: Apache-2.0
// Measures the best rates of this machine: the bounds beside which `carousel bench` puts decode, prefill and ops.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"

namespace carousel::cpu {

/// Rate of reading `bytes_per_thread` bytes again and again, each thread its own.
struct CacheRead {
  size_t bytes_per_thread = 0;
  double gb_per_s = 0;  // all threads together
};

struct Bounds {
  double read_gb_per_s = 0;     // sequential reads, one stream of addresses per thread, huge pages: 10^9 bytes
  double scale_gb_per_s = 0;    // x *= c in place: bytes read plus bytes written
  double f32_gflop_per_s = 0;   // fused multiply-adds in registers, two operations each (portable: mul and add)
  double bf16_gflop_per_s = 0;  // bf16 dot products into f32; 0 where the instruction set has none
  double int8_gop_per_s = 0;    // u8 x s8 dot products into s32, or the nearest the set has: see bounds_cpu.cc
  std::vector<CacheRead> caches;
};

/// Measures one bound at a time: a call gives the best of several loops, each run twice. The probe allocates all its
/// memory when it is built.
class BoundsProbe {
 public:
  /// `memory_bytes` should be many times the last-level cache; a compute or cache probe takes `seconds`. Throws
  /// Error(kIo) where the system refuses the memory.
  BoundsProbe(const Stream& stream, size_t memory_bytes, double seconds);
  double read_gb_per_s();
  double scale_gb_per_s();
  double f32_gflop_per_s();
  double bf16_gflop_per_s();
  double int8_gop_per_s();
  double cache_read_gb_per_s(size_t bytes_per_thread);

 private:
  const Stream& stream_;
  double seconds_;
  int64_t tasks_, count_;
  Tensor memory_;   // [count]
  Tensor results_;  // [tasks]
};

/// The best of `rounds` rounds (at least 1), each of which measures every bound once, on the stream's instruction set
/// and threads. No round begins once `stopped` says so, but the first. Throws Error(kIo) where the system refuses the
/// memory.
Bounds measure_bounds(const Stream& stream, int rounds, const std::function<bool()>& stopped,
                      size_t memory_bytes = size_t{1} << 30);

/// Bytes of the last level of cache, which cores share; 0 where the system does not tell.
size_t last_level_cache_bytes();

}  // namespace carousel::cpu
