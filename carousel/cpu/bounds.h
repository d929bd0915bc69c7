// SPDX-License-Identifier: Apache-2.0
// What this machine can do at best, measured: the yardstick `carousel bench` holds decode and prefill against.
#pragma once

#include <cstddef>

#include "carousel/core/stream.h"

namespace carousel::cpu {

struct Bounds {
  double read_gb_per_s = 0;     // sequential reads, one stream of addresses per thread, huge pages: 10^9 bytes
  double scale_gb_per_s = 0;    // x *= c in place: bytes read plus bytes written
  double f32_gflop_per_s = 0;   // fused multiply-adds in registers, two operations each (portable: mul and add)
  double bf16_gflop_per_s = 0;  // bf16 dot products into f32; 0 where the instruction set has none
};

/// Medians over `rounds` rounds (at least 1), each of which measures every bound once, on the stream's instruction set
/// and threads. `memory_bytes` should be many times the last-level cache. Throws Error(kIo) if it cannot be had.
Bounds measure_bounds(const Stream& stream, int rounds, size_t memory_bytes = size_t{1} << 30);

}  // namespace carousel::cpu
