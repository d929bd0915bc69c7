// SPDX-License-Identifier: Apache-2.0
// Products of a warp on tensor cores, which every GPU that carousel runs on has.
#pragma once

#include <cstdint>

namespace carousel::cuda {

/// sums f32 [16, 8] += a [16, 16] b [16, 8], both bf16, in the registers of m16n8k16.
__device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace carousel::cuda
