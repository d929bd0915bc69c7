// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence for heads of 64, 128 or 256 elements on GPUs with clusters of blocks (sm_90). A cluster takes a
// head of a few sequences through all their steps. Each of its blocks has 32 elements, whose 128 rows of R lie in
// registers: some threads share the four rows of an element. So a step reads no weights, and what it costs is the sums,
// the gates, and the exchange of y. A warp per sequence advances the block's elements, a lane each.
//
// y of the step before lies in the shared memory of every block, twice. Step t reads copy t % 2, and a block writes the
// new y of its elements to copy (t + 1) % 2 of every block. No step has a barrier of the cluster:
//  1. full[c] of a block ends a phase when all elements of copy c have been written there: the writes report their
//     bytes. Step t + 1 waits for the phase that step t fills. Every step writes, whether a sequence has the row or
//     not, so each phase has the same bytes.
//  2. A block writes copy t % 2 in step t + 1 only after its copy (t + 1) % 2 is full. Every block had then passed the
//     barrier of step t after which it writes, and before which all its warps read copy t % 2.
//  3. Thread 0 announces the bytes of a phase of full[c] as soon as the phase before has ended; no byte of that phase
//     comes before, by 2.
//  4. Sums of step t lie in copy t % 2. Step t + 2 writes them anew after the barrier of step t + 1, which a warp
//     reaches only when it has read those of step t.
// The barrier before the first step lets no block write to one that has not begun. After its last step a block waits
// for what is written to it, so nobody writes to one that has ended. All threads of the cluster take all steps: those
// of the longest sequence.
//
// A sum is a chain of each of those threads, added in one order. It does not depend on the other sequences, nor on
// how many a cluster takes.
#pragma once

#include "carousel/cuda/async.cuh"
#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/slstm/slstm_advance.h"
#include "carousel/ops/slstm/slstm_cpu.h"

namespace carousel::cuda {
namespace {

constexpr int kUnits = 32;  // elements of a block
static_assert(kUnits == kWarp);
/// Threads that share the rows of an element: as few as leave each some registers beside its part of R.
__host__ __device__ constexpr int parts_of(int dh) { return dh <= 128 ? 8 : 16; }

/// c, n, m and y of an element after a step, from the sums of its gates.
struct Element : ops::SlstmCell<FloatMath> {
  __device__ void advance(const float (&raw)[4], float f_gate_max) {
    const SlstmCell<FloatMath>& old = *this;
    SlstmCell<FloatMath>::operator=(ops::slstm_advance(old, raw[0], raw[1], raw[2], raw[3], f_gate_max).cell);
  }
};

/// Sums of kCount values over threads that differ in the bits of kMask and below. Each is left to one thread or more,
/// in its first values.
template <int kMask, int kCount>
__device__ __forceinline__ void sum_over_parts(int part, float* values) {
  if constexpr (kMask > 0) {
    if constexpr (kCount == 1) {
      values[0] += __shfl_xor_sync(kAllLanes, values[0], kMask);
      sum_over_parts<kMask / 2, 1>(part, values);
    } else {
      const bool upper = (part & kMask) != 0;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        const float low = values[i], high = values[i + kCount / 2];
        values[i] = (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, kMask);
      }
      sum_over_parts<kMask / 2, kCount / 2>(part, values);
    }
  }
}
/// The number of the first sum that is left to a thread; negative: another has it too, and is the first to.
template <int kParts, int kCount>
__device__ int sum_of_part(int part) {
  if constexpr (kCount >= kParts) {
    return part * (kCount / kParts);
  } else {
    return part % (kParts / kCount) == 0 ? part / (kParts / kCount) : -1;
  }
}

#if defined(CAROUSEL_SM90A)

/// A thread's fours of the rows of an element, of all gates.
template <int kDh>
struct RecurrentRows {
  static constexpr int kParts = parts_of(kDh), kFours = kDh / 4 / kParts;
  float of[4][kFours][4];

  __device__ RecurrentRows(const ops::SlstmArgs& args, int64_t h, int unit, int part) {
    constexpr int64_t kPieces = 2 * kDh / ops::kSlstmElements;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
      const int64_t piece = unit / ops::kSlstmElements * 2 + gate / 2;
      const float* const panel = args.panels + (h * kPieces + piece) * kDh * ops::kSlstmPiece +
                                 gate % 2 * ops::kSlstmElements + unit % ops::kSlstmElements;
#pragma unroll
      for (int i = 0; i < 4 * kFours; ++i) {
        of[gate][i / 4][i % 4] = panel[(4 * (i / 4 * kParts + part) + i % 4) * ops::kSlstmPiece];
      }
    }
  }
  /// raw[4 q + gate] += the thread's part of R y, y of sequence q lying kDh floats after that of q - 1.
  template <int kSeqs>
  __device__ __forceinline__ void multiply(uint32_t y, float (&raw)[4 * kSeqs]) const {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
#pragma unroll
      for (int q = 0; q < kSeqs; ++q) {
        const float4 y4 = shared_four(y + (q * kDh + 4 * i * kParts) * 4);
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
          const float(&row)[4] = of[gate][i];
          float& sum = raw[4 * q + gate];
          sum = fmaf(row[3], y4.w, fmaf(row[2], y4.z, fmaf(row[1], y4.y, fmaf(row[0], y4.x, sum))));
        }
      }
    }
  }
};

/// Where a lane's four new elements of y go. Lanes 8 i to 8 i + 7 write to block i, or blocks i and i + 4.
template <int kBlocks>
struct Targets {
  static constexpr int kCount = (kBlocks + 3) / 4;
  uint32_t places[kCount], barriers[kCount];  // of the first copy

  __device__ Targets(const float* own, uint32_t full) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int rank = min(4 * i + lane() / 8, kBlocks - 1);
      places[i] = in_block(shared_address(own + first()), rank);
      barriers[i] = in_block(full, rank);
    }
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ static int first() { return lane() % 8 * 4; }
  /// `y` of each lane, to copy `copy`, which begins `copy` times `copy_bytes` after the first.
  __device__ __forceinline__ void send(float y, int copy, int copy_bytes) const {
    float fours[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) fours[i] = __shfl_sync(kAllLanes, y, first() + i);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (4 * i + lane() / 8 < kBlocks) store_in_cluster(places[i] + copy * copy_bytes, barriers[i] + 8 * copy, fours);
    }
    __syncwarp();
  }
};

#endif  // CAROUSEL_SM90A

/// The grid is [blocks of a cluster, heads, groups of kSeqs sequences].
template <int kDh, int kSeqs>
__global__ void __launch_bounds__(kUnits* parts_of(kDh), 1) recur_in_cluster(ops::SlstmArgs args) {
#if defined(CAROUSEL_SM90A)
  constexpr int kParts = parts_of(kDh), kThreads = kUnits * kParts;
  constexpr int kBlocks = kDh / kUnits, kCopyBytes = kSeqs * kDh * 4;
  constexpr int kSums = 4 * kSeqs, kLeft = kSums > kParts ? kSums / kParts : 1;  // of an element; left to a thread
  __shared__ __align__(16) float y[2][kSeqs][kDh];
  __shared__ float sums[2][kSums][kUnits];  // by sequence, then gate
  __shared__ uint64_t barriers[2];
  const uint32_t full = shared_address(barriers);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int part = static_cast<int>(threadIdx.x) % kParts, summed = static_cast<int>(threadIdx.x) / kParts;
  const int first_unit = static_cast<int>(blockIdx.x) * kUnits;
  const int64_t h = blockIdx.y, width = args.dims.heads * kDh, first = int64_t{blockIdx.z} * kSeqs;
  const RecurrentRows<kDh> recurrent(args, h, first_unit + summed, part);

  // Warp q advances the elements of sequence q, a lane each.
  int64_t steps = 0;  // of the longest sequence
  BatchSequence seq = {0, 0, 0};
  for (int q = 0; q < kSeqs && first + q < args.seqs.batch; ++q) {
    const BatchSequence one = sequence_at(args.seqs.there, args.seqs.batch, first + q);
    if (one.rows > steps) steps = one.rows;
    if (q == warp) seq = one;
  }
  if (steps == 0) return;  // the whole cluster
  const int64_t s = first + warp, at = h * kDh + first_unit + lane;
  const bool keeps = args.y != nullptr, owns = seq.rows > 0;
  for (int i = static_cast<int>(threadIdx.x); i < kSeqs * kDh; i += kThreads) {
    const int q = i / kDh, k = i % kDh;
    y[0][q][k] = keeps && first + q < args.seqs.batch ? args.y[first + q][h * kDh + k] : 0;
  }
  Element element = {0, 0, 0, 0};
  if (owns && keeps) element = {args.y[s][at], args.c[s][at], args.n[s][at], args.m[s][at]};
  if (threadIdx.x == 0) {
    for (int copy = 0; copy < 2; ++copy) {
      init_barrier(full + 8 * copy, 1);
      arrive_expecting(full + 8 * copy, kCopyBytes);
    }
    publish_barriers();
  }
  const Targets<kBlocks> targets(&y[0][min(warp, kSeqs - 1)][first_unit], full);
  const int which = sum_of_part<kParts, kSums>(part);
  const uint32_t y_at = shared_address(&y[0][0][4 * part]);
  // As numbers in registers: the compiler would work out the places of arrays anew in each step.
  const uint32_t sums_to = shared_address(sums) + (which * kUnits + summed) * 4;
  const uint32_t sums_from = shared_address(sums) + (4 * warp * kUnits + lane) * 4;

  // wx is on its way two steps ahead: that is longer than memory takes.
  const float* wx = static_cast<const float*>(args.wx.data) + seq.first_row * args.wx.stride + at;
  float* out = static_cast<float*>(args.out.data) + seq.first_row * args.out.stride + at;
  const auto rows = static_cast<int>(owns ? seq.rows : 0);
  const auto wx_of = [&](int t, float(&to)[4]) {
    if (t >= rows) return;
#pragma unroll
    for (int g = 0; g < 4; ++g) to[g] = __ldg(wx + g * width);
    wx += args.wx.stride;
  };
  float now[4] = {}, next[4] = {};
  wx_of(0, now);
  wx_of(1, next);
  sync_cluster();
  for (int t = 0; t < steps; ++t) {
    float after[4] = {};
    if (warp < kSeqs) wx_of(t + 2, after);
    const int copy = t & 1;
    if (t > 0) {
      await(full + 8 * copy, (t - 1) / 2 & 1);
      if (threadIdx.x == 0) arrive_expecting(full + 8 * copy, kCopyBytes);
      __syncwarp();
    }
    float raw[kSums] = {};  // by sequence, then gate
    recurrent.template multiply<kSeqs>(y_at + copy * kCopyBytes, raw);
    sum_over_parts<kParts / 2, kSums>(part, raw);
#pragma unroll
    for (int i = 0; i < kLeft; ++i) {
      if (which >= 0) store_shared(sums_to + (copy * kSums + i) * kUnits * 4, raw[i]);
    }
    __syncthreads();
    if (warp >= kSeqs) continue;
    if (t < rows) {
      float gates[4];
#pragma unroll
      for (int g = 0; g < 4; ++g) gates[g] = now[g] + shared_one(sums_from + (copy * kSums + g) * kUnits * 4);
      element.advance(gates, args.dims.f_gate_max);
      *out = element.y;
      out += args.out.stride;
    }
    targets.send(element.y, copy ^ 1, kCopyBytes);
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      now[g] = next[g];
      next[g] = after[g];
    }
  }
  await(full + 8 * static_cast<int>(steps & 1), static_cast<int>((steps - 1) / 2 & 1));
  if (!owns || !keeps) return;
  args.y[s][at] = element.y;
  args.c[s][at] = element.c;
  args.n[s][at] = element.n;
  args.m[s][at] = element.m;
#endif
}

template <int kDh, int kSeqs>
void launch_cluster(const Gpu::Impl& gpu, const ops::SlstmArgs& args) {
  const auto groups = static_cast<unsigned>(blocks_of(args.seqs.batch, kSeqs));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kDh / kUnits;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kDh / kUnits, static_cast<unsigned>(args.dims.heads), groups);
  config.blockDim = dim3(kUnits * parts_of(kDh));
  config.stream = gpu.queue();
  config.attrs = &cluster;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, recur_in_cluster<kDh, kSeqs>, args), "slstm");
}

/// As few sequences to a cluster as leave every block a multiprocessor of its own, at most 4: blocks that share one
/// take their steps one after the other.
template <int kDh>
void launch_clusters(const Gpu::Impl& gpu, const ops::SlstmArgs& args) {
  const int64_t blocks_each = kDh / kUnits * args.dims.heads;
  const auto fits = [&](int64_t sequences) {
    return blocks_of(args.seqs.batch, sequences) * blocks_each <= gpu.multiprocessors;
  };
  if (fits(1)) return launch_cluster<kDh, 1>(gpu, args);
  if (fits(2)) return launch_cluster<kDh, 2>(gpu, args);
  launch_cluster<kDh, 4>(gpu, args);
}

/// Runs the call in clusters, if they take heads of this width.
inline bool run_in_clusters(const Gpu::Impl& gpu, const ops::SlstmArgs& args) {
  if (!gpu.is_hopper || !gpu.runs(Fast::kSlstm)) return false;
  switch (args.dims.dh) {
    case 64:
      launch_clusters<64>(gpu, args);
      return true;
    case 128:
      launch_clusters<128>(gpu, args);
      return true;
    case 256:
      launch_clusters<256>(gpu, args);
      return true;
    default:
      return false;
  }
}

}  // namespace
}  // namespace carousel::cuda
