// SPDX-License-Identifier: Apache-2.0
// The loops bounds.cc times, one copy per instruction set.
#pragma once

#include <cstdint>

#include "carousel/cpu/kernel.h"

namespace carousel::cpu {

/// Loops of each kind, numbered from 0: no one of them is the fastest on every machine.
constexpr int kBoundsLoops = 2;

struct BoundsMemory {
  int loop;        // 0: prefetches, 1: leaves that to the hardware
  float* x;        // [count]
  int64_t count;   // a multiple of 256 * tasks
  int64_t tasks;   // contiguous pieces of x that the threads claim
  float* results;  // [tasks], so that nothing is optimised away
};

struct BoundsCache {
  int loop;        // 0: forth and back, 1: round and round
  const float* x;  // [tasks, count]
  int64_t count;   // floats of one task, a multiple of 256
  int64_t tasks;   // one per thread
  int64_t passes;  // how often a task reads its floats
  float* results;  // [tasks]
};

struct BoundsCompute {
  int loop;  // 0: few chains, 1: as many as the registers hold
  int64_t iterations;
  int64_t tasks;
  float* results;    // [tasks]
  int64_t* n_flops;  // operations of one task; 0: this set has no such instruction
};

}  // namespace carousel::cpu

SET_KERNEL(bounds_read, carousel::cpu::BoundsMemory);
SET_KERNEL(bounds_scale, carousel::cpu::BoundsMemory);
SET_KERNEL(bounds_cache, carousel::cpu::BoundsCache);
SET_KERNEL(bounds_f32, carousel::cpu::BoundsCompute);
SET_KERNEL(bounds_bf16, carousel::cpu::BoundsCompute);
SET_KERNEL(bounds_int8, carousel::cpu::BoundsCompute);
