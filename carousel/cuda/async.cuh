// SPDX-License-Identifier: Apache-2.0
// Hopper's asynchronous copies: barriers in shared memory, copies of tiles (TMA), and the fences between what threads
// write and what copies and wgmma read. Addresses of shared memory are 32-bit. The instructions exist on sm_90 alone,
// so kernels that use them have their bodies under CAROUSEL_SM90A. What follows its #endif works on any GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "carousel/cuda/tile_map.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CAROUSEL_SM90A 1
#endif

namespace carousel::cuda {

/// The byte of piece `piece` of row `row` of a swizzled tile.
__host__ __device__ constexpr uint32_t swizzled(uint32_t row, uint32_t piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}
static_assert(swizzled(0, 3) == 48 && swizzled(9, 0) == 9 * 128 + 16 && swizzled(7, 7) == 7 * 128);

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

#if defined(CAROUSEL_SM90A)

/// A barrier whose phase ends when `arrivals` have arrived and the bytes it was told to expect are there.
__device__ inline void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Makes initialised barriers known to the copies; every thread must pass a barrier of the block afterwards.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of this parity. The loop is one asm block: as a loop of C++ it costs the compiler its
/// wgmma pipelines and spills. A wait that outlasts 20,000 suspensions, seconds that is, traps, so a mistake in the
/// protocol ends the kernel with an error instead of hanging the GPU.
__device__ inline void await(uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done, lost;\n"
      ".reg .u32 tries;\n"
      "mov.u32 tries, 0;\n"
      "AGAIN_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE_%=;\n"
      "add.u32 tries, tries, 1;\n"
      "setp.gt.u32 lost, tries, 20000;\n"
      "@lost trap;\n"
      "bra AGAIN_%=;\n"
      "DONE_%=:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// The same place of shared memory in block `rank` of the cluster.
__device__ inline uint32_t in_block(uint32_t place, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(place), "r"(rank));
  return there;
}
/// Stores to a place of a block of the cluster, a multiple of 16; the store reports its bytes to `barrier`, of the same
/// block, for which whoever reads them waits.
__device__ inline void store_in_cluster(uint32_t place, uint32_t barrier, const float (&values)[4]) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(place),
      "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "r"(barrier)
      : "memory");
}
/// Reads what other threads and copies write: in the order of the barriers around it.
__device__ inline float4 shared_four(uint32_t place) {
  float4 four;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(four.x), "=f"(four.y), "=f"(four.z), "=f"(four.w)
               : "r"(place)
               : "memory");
  return four;
}
__device__ inline float shared_one(uint32_t place) {
  float one;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(one) : "r"(place) : "memory");
  return one;
}
__device__ inline void store_shared(uint32_t place, float one) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(place), "f"(one) : "memory");
}
/// A barrier of all threads of the cluster. What they wrote before is seen after it.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Starts the copy of the tile at (column, row) to `to`, which reports its bytes to `barrier`.
__device__ inline void copy_tile(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
/// The same for `bytes` in one piece; both addresses and `bytes` are multiples of 16.
__device__ inline void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

/// Starts the copy of a tile of shared memory to (column, row) of the map, in a group that commit_stores() ends. Parts
/// beyond the matrix are left out. One thread does all that concerns such groups.
__device__ inline void store_tile(const CUtensorMap* map, int column, int row, uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
               "r"(column), "r"(row), "r"(from)
               : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until all groups have read their shared memory; until all have written.
__device__ inline void await_stored_reads() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void await_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/// Copies and wgmma that are ordered after this call see what the thread wrote to shared memory before.
__device__ inline void fence_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// A barrier of `threads` threads of the block; 0 is that of __syncthreads. The number is part of the instruction,
/// since one in a register would reserve all sixteen.
template <int kNumber, int threads>
__device__ inline void sync_threads_of() {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "n"(threads) : "memory");
}

__device__ inline void reset_counter(uint32_t counter) {
  asm volatile("st.shared.s32 [%0], 0;" ::"r"(counter) : "memory");
}
/// The counter before one is added; what was done before by all who added is seen by who reads the last count.
__device__ inline int count_up(uint32_t counter) {
  int before;
  asm volatile("atom.add.acq_rel.cta.shared::cta.s32 %0, [%1], 1;" : "=r"(before) : "r"(counter) : "memory");
  return before;
}

template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Four 8 by 8 tiles of bf16; lane 8 i + r has the address of row r of tile i.
__device__ inline void store_tiles(uint32_t address, const uint32_t (&tiles)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(tiles[0]),
               "r"(tiles[1]), "r"(tiles[2]), "r"(tiles[3])
               : "memory");
}
__device__ inline void store_transposed_tiles(uint32_t address, const uint32_t (&tiles)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(tiles[0]), "r"(tiles[1]), "r"(tiles[2]), "r"(tiles[3])
               : "memory");
}
#endif  // CAROUSEL_SM90A

/// Copies that are started after this call, and a barrier, see what the thread wrote to global memory before.
__device__ inline void fence_for_async_copies() {
#if defined(CAROUSEL_SM90A)
  asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

/// Lets the second level of cache fetch `bytes`, a multiple of 16 as `from` is. Nothing happens before sm_90.
__device__ inline void prefetch_bytes(const void* from, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

/// Lets the second level of cache fetch the line that holds `address`, on any GPU.
__device__ inline void prefetch_line(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

/// Four 8 by 8 tiles of bf16, read; addresses as for store_tiles(). Any GPU that carousel runs on has these.
__device__ inline void load_tiles(uint32_t address, uint32_t (&tiles)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_transposed_tiles(uint32_t address, uint32_t (&tiles)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(address)
               : "memory");
}

/// 2^x to 2 units in the last place.
__device__ inline float exp2_fast(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
/// Two values rounded to bf16: `low` in the lower half.
__device__ inline uint32_t pair_of(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

}  // namespace carousel::cuda
