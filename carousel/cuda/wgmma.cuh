// SPDX-License-Identifier: Apache-2.0
// Hopper's products of a warpgroup: D [64, N] f32 += A [64, 16] B [16, N], both bf16, each call one step of 16 in
// depth.
//
// Accumulators of a thread: warp w, lane 4 g + t holds rows 16 w + g and 16 w + g + 8. d[4 j] and d[4 j + 1] are
// columns 8 j + 2 t and 8 j + 2 t + 1 of the first row, d[4 j + 2] and d[4 j + 3] those of the second. An A operand in
// registers has the same order, so accumulators d[8 k .. 8 k + 7], rounded in pairs, are step k of A.
//
// A call is asynchronous: its registers may be touched again after commit() and await_groups(), and memory that threads
// wrote is read after fence_for_async(). Operands in shared memory are swizzled tiles (async.cuh) that begin at
// multiples of 1024 bytes; a descriptor names one.
#pragma once

#include "carousel/cuda/async.cuh"

namespace carousel::cuda {

#if defined(CAROUSEL_SM90A)

/// `next_tile` is the distance in bytes to the next 64 columns, which matters for operands that are read across rows.
__device__ inline uint64_t tile_descriptor(uint32_t address, uint32_t next_tile = 16) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kNextEightRows = uint64_t{1024 >> 4} << 32;
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{next_tile >> 4} << 16 | kNextEightRows | kSwizzle128;
}
/// What moves a descriptor by `bytes`.
__device__ constexpr uint64_t descriptor_step(uint32_t bytes) { return bytes >> 4; }

/// Registers that were written before are read by the products that follow.
__device__ inline void fence_registers() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kPending committed groups have not ended.
template <int kPending>
__device__ inline void await_groups() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of `values` across this place, which it would, since it does not know that a
/// product may still be writing them.
template <int kCount>
__device__ inline void pin(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// The lists of accumulators in the instructions, and of what they are bound to.
#define CAROUSEL_R8(a, b, c, d, e, f, g, h) "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define CAROUSEL_R32                                                                                             \
  CAROUSEL_R8(0, 1, 2, 3, 4, 5, 6, 7)                                                                            \
  "," CAROUSEL_R8(8, 9, 10, 11, 12, 13, 14, 15) "," CAROUSEL_R8(16, 17, 18, 19, 20, 21, 22, 23) "," CAROUSEL_R8( \
      24, 25, 26, 27, 28, 29, 30, 31)
#define CAROUSEL_R64                                                                                               \
  CAROUSEL_R32                                                                                                     \
  "," CAROUSEL_R8(32, 33, 34, 35, 36, 37, 38, 39) "," CAROUSEL_R8(40, 41, 42, 43, 44, 45, 46, 47) "," CAROUSEL_R8( \
      48, 49, 50, 51, 52, 53, 54, 55) "," CAROUSEL_R8(56, 57, 58, 59, 60, 61, 62, 63)
#define CAROUSEL_R128                                                                                                  \
  CAROUSEL_R64                                                                                                         \
  "," CAROUSEL_R8(64, 65, 66, 67, 68, 69, 70, 71) "," CAROUSEL_R8(72, 73, 74, 75, 76, 77, 78, 79) "," CAROUSEL_R8(     \
      80, 81, 82, 83, 84, 85, 86,                                                                                      \
      87) "," CAROUSEL_R8(88, 89, 90, 91, 92, 93, 94,                                                                  \
                          95) "," CAROUSEL_R8(96, 97, 98, 99, 100, 101, 102,                                           \
                                              103) "," CAROUSEL_R8(104, 105, 106, 107, 108, 109, 110,                  \
                                                                   111) "," CAROUSEL_R8(112, 113, 114, 115, 116, 117,  \
                                                                                        118,                           \
                                                                                        119) "," CAROUSEL_R8(120, 121, \
                                                                                                             122, 123, \
                                                                                                             124, 125, \
                                                                                                             126, 127)
#define CAROUSEL_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CAROUSEL_D16(d, i) CAROUSEL_D4(d, i), CAROUSEL_D4(d, i + 4), CAROUSEL_D4(d, i + 8), CAROUSEL_D4(d, i + 12)
#define CAROUSEL_D32(d, i) CAROUSEL_D16(d, i), CAROUSEL_D16(d, i + 16)
#define CAROUSEL_D64(d, i) CAROUSEL_D32(d, i), CAROUSEL_D32(d, i + 32)

/// d [64, 64] = a b^T (+ d where `adds`): a in registers, b [64 columns of D, 16 deep] with depth along its rows. With
/// kAcross of 1, d = a b, of b [16 deep, 64 columns of D].
template <int kAcross = 0>
__device__ inline void multiply_64(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int adds) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CAROUSEL_R32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}"
      : CAROUSEL_D32(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kAcross));
}
/// d [64, 64] += a^T b^T: a [16 deep, 64 rows of D], b [64, 16 deep], both in shared memory.
__device__ inline void multiply_64_transposed(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CAROUSEL_R32
               "}, %32, %33, p, 1, 1, 1, 0;}"
               : CAROUSEL_D32(d, 0)
               : "l"(a), "l"(b));
}
/// d [64, 72] = a b^T (+ d where `adds`): a [64, 16 deep], b [72, 16 deep].
__device__ inline void multiply_72(float (&d)[36], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %38, 0; wgmma.mma_async.sync.aligned.m64n72k16.f32.bf16.bf16 {" CAROUSEL_R32
      ",%32,%33,%34,%35}, %36, %37, p, 1, 1, 0, 0;}"
      : CAROUSEL_D32(d, 0), CAROUSEL_D4(d, 32)
      : "l"(a), "l"(b), "r"(adds));
}
/// d [64, 128] or [64, 256] += a b: a in registers, b [16 deep, columns of D].
__device__ inline void multiply_wide(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" CAROUSEL_R64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;}"
      : CAROUSEL_D64(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_wide(float (&d)[128], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" CAROUSEL_R128
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1;}"
      : CAROUSEL_D64(d, 0), CAROUSEL_D64(d, 64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef CAROUSEL_R8
#undef CAROUSEL_R32
#undef CAROUSEL_R64
#undef CAROUSEL_R128
#undef CAROUSEL_D4
#undef CAROUSEL_D16
#undef CAROUSEL_D32
#undef CAROUSEL_D64

#endif  // CAROUSEL_SM90A

}  // namespace carousel::cuda
