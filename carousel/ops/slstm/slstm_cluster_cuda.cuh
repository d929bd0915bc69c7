// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence for heads of 64, 128 or 256 elements on GPUs with clusters of blocks (sm_90). A cluster takes a
// head of a few sequences through all their steps. Each of its blocks has 32 elements, whose 128 rows of R lie in
// registers: 4 threads share a row. So a step reads no weights, and what it costs is 512 multiply-adds of a warp, the
// gates, and the exchange of y.
//
// y of the step before lies in the shared memory of every block, twice. Step t reads copy t % 2, and an element's owner
// writes its new y to copy (t + 1) % 2 of every block. One barrier of the cluster ends the step:
//  1. It releases the writes to other blocks before it and acquires them after it, so step t + 1 reads what was
//  written.
//  2. A block that is ahead writes copy t % 2 in step t + 1 only after every block has passed the barrier of step t,
//  and
//     so has read that copy.
// The barrier before the first step lets no block write to one that has not begun; the one after the last keeps blocks
// until nobody writes to them. All threads of the cluster take all steps: those of the longest sequence.
//
// An element's sum is four chains over a quarter of y each, added in one order. It does not depend on the other
// sequences, nor on how many a cluster takes.
#pragma once

#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/slstm/slstm_cpu.h"

namespace carousel::cuda {
namespace {

constexpr int kUnits = 32;    // elements of a block
constexpr int kQuarters = 4;  // threads that share a row of R
constexpr int kClusterThreads = kUnits * 4 * kQuarters;

/// c, n, m and y of an element after a step, from the sums of its gates.
struct Element {
  float y, c, n, m;

  __device__ void advance(const float (&raw)[4], float f_gate_max) {
    const float old_n = n, capped = fminf(f_gate_max, raw[1]);
    const float log_f = m + (fminf(capped, 0.0f) - log1pf(expf(-fabsf(capped))));
    // The larger of the two gates is e^0. Where n is 0, i is e^0, since m' is raw_i.
    const float ahead = raw[0] - log_f, e = expf(-fabsf(ahead));
    const float f = ahead >= 0 ? e : 1.0f, i = old_n == 0 || ahead >= 0 ? 1.0f : e;
    m = old_n == 0 ? raw[0] : fmaxf(raw[0], log_f);
    c = fmaf(f, c, i * tanhf(raw[2]));
    n = fmaf(f, old_n, i);
    // sigmoid(o) c / n, where sigmoid(o) = w / (1 + e^-|o|) with w = 1 or e^-|o|: one division.
    const float o = expf(-fabsf(raw[3]));
    y = (raw[3] >= 0 ? 1.0f : o) * c / fmaf(o, n, n);
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// Stores to the same place of shared memory in block `rank` of the cluster.
__device__ inline void store_in_block(const float* place, int rank, float value) {
  const auto here = static_cast<uint32_t>(__cvta_generic_to_shared(place));
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
}
#endif

/// The grid is [blocks of a cluster, heads, groups of kSeqs sequences].
template <int kDh, int kSeqs>
__global__ void __launch_bounds__(kClusterThreads, 1) recur_in_cluster(ops::SlstmArgs args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kBlocks = kDh / kUnits, kPart = kDh / kQuarters;
  constexpr int kPitch = kPart + 4;  // quarters of y begin in different banks
  __shared__ __align__(16) float y[2][kSeqs][kQuarters * kPitch];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int quarter = lane % kQuarters, gate = lane / kQuarters % 4;
  const int unit = static_cast<int>(blockIdx.x) * kUnits + warp * 2 + lane / 16;  // of the head
  const int64_t h = blockIdx.y, width = args.dims.heads * kDh, at = h * kDh + unit;
  const int64_t first = int64_t{blockIdx.z} * kSeqs;

  // A thread's quarter of row (unit, gate) of R.
  float r[kPart];
  const int64_t pieces = 2 * kDh / ops::kSlstmElements, piece = unit / ops::kSlstmElements * 2 + gate / 2;
  const float* const panel = args.panels + (h * pieces + piece) * kDh * ops::kSlstmPiece +
                             gate % 2 * ops::kSlstmElements + unit % ops::kSlstmElements;
#pragma unroll
  for (int k = 0; k < kPart; ++k) r[k] = panel[(quarter * kPart + k) * ops::kSlstmPiece];

  // Lane (gate 0, quarter q) owns the element of sequence q.
  int64_t steps = 0;  // of the longest sequence
  BatchSequence seq = {0, 0, 0};
  for (int q = 0; q < kSeqs; ++q) {
    if (first + q >= args.seqs.batch) break;
    const BatchSequence one = sequence_at(args.seqs.there, args.seqs.batch, first + q);
    if (one.rows > steps) steps = one.rows;
    if (q == quarter && gate == 0) seq = one;
  }
  if (steps == 0) return;  // the whole cluster
  const int64_t s = first + quarter;
  const bool keeps = args.y != nullptr, owns = seq.rows > 0;
  for (int i = static_cast<int>(threadIdx.x); i < kSeqs * kDh; i += kClusterThreads) {
    const int q = i / kDh, k = i % kDh;
    y[0][q][k / kPart * kPitch + k % kPart] = keeps && first + q < args.seqs.batch ? args.y[first + q][h * kDh + k] : 0;
  }
  Element element = {0, 0, 0, 0};
  if (owns && keeps) element = {args.y[s][at], args.c[s][at], args.n[s][at], args.m[s][at]};

  // wx is on its way two steps ahead: that is longer than memory takes.
  const auto wx_of = [&](int64_t t, float(&to)[4]) {
    if (!owns || t >= seq.rows) return;
    const float* const wx = static_cast<const float*>(args.wx.data) + (seq.first_row + t) * args.wx.stride + at;
#pragma unroll
    for (int g = 0; g < 4; ++g) to[g] = __ldg(wx + g * width);
  };
  float now[4] = {}, next[4] = {};
  wx_of(0, now);
  wx_of(1, next);
  sync_cluster();
  for (int64_t t = 0; t < steps; ++t) {
    float after[4] = {};
    wx_of(t + 2, after);
    const int copy = static_cast<int>(t & 1);
    float sums[kSeqs] = {};
#pragma unroll
    for (int k = 0; k < kPart; k += 4) {
#pragma unroll
      for (int q = 0; q < kSeqs; ++q) {
        const float4 y4 = *reinterpret_cast<const float4*>(&y[copy][q][quarter * kPitch + k]);
        sums[q] = fmaf(r[k + 3], y4.w, fmaf(r[k + 2], y4.z, fmaf(r[k + 1], y4.y, fmaf(r[k], y4.x, sums[q]))));
      }
    }
    float own = 0;  // the sum of this lane's row, for the sequence of its quarter
#pragma unroll
    for (int q = 0; q < kSeqs; ++q) {
      sums[q] += __shfl_xor_sync(kAllLanes, sums[q], 1);
      sums[q] += __shfl_xor_sync(kAllLanes, sums[q], 2);
      if (q == quarter) own = sums[q];
    }
    float raw[4] = {own, 0, 0, 0};
#pragma unroll
    for (int g = 1; g < 4; ++g) raw[g] = __shfl_down_sync(kAllLanes, own, g * kQuarters);
    if (owns && t < seq.rows) {
#pragma unroll
      for (int g = 0; g < 4; ++g) raw[g] += now[g];
      element.advance(raw, args.dims.f_gate_max);
      const float* const place = &y[copy ^ 1][quarter % kSeqs][unit / kPart * kPitch + unit % kPart];
#pragma unroll
      for (int rank = 0; rank < kBlocks; ++rank) store_in_block(place, rank, element.y);
      static_cast<float*>(args.out.data)[(seq.first_row + t) * args.out.stride + at] = element.y;
    }
    __syncwarp();
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      now[g] = next[g];
      next[g] = after[g];
    }
    sync_cluster();
  }
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
  config.blockDim = dim3(kClusterThreads);
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
