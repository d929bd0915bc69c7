// SPDX-License-Identifier: Apache-2.0
// Attention of many rows on Hopper: the same passes over pages as attention_tiles_cuda.cuh, by warpgroups (wgmma). Each
// of a block's two warpgroups has 64 rows. While the products with the values of one page run, the weights of the next
// are computed (arXiv:2407.08608, section 3.2).
//
// 1. Page i lies in stage i mod kStages of shared memory. full[stage] ends a phase when its keys and values are there.
// 2. A warp has done with a page when its products with the page's values have ended. The last warp to say so sets the
//    stage's counter to 0 and starts the copy of page i + kStages: nobody else touches the stage before that copy ends.
#pragma once

#include <cmath>

#include "carousel/cuda/wgmma.cuh"
#include "carousel/ops/attention/attention_prepare_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kGroups = 2, kGroupRows = 64, kHopperThreads = 128 * kGroups;
constexpr int kStages = 4;

template <int kDim>
struct HopperMemory {
  static constexpr int kOperandBytes = kDim * kPage * 2, kStageBytes = 2 * kOperandBytes;
  static constexpr int kFull = kStages * kStageBytes;        // barriers [kStages]
  static constexpr int kDone = kFull + 8 * kStages;          // counters [kStages]
  static constexpr int kBytes = kDone + 4 * kStages + 1024;  // with what aligning takes
};

#if defined(CAROUSEL_SM90A)

/// A block's pages on their way through shared memory.
template <int kDim>
struct Pages {
  using M = HopperMemory<kDim>;
  uint32_t base;               // of shared memory
  const __nv_bfloat16 *k, *v;  // page 0 of the key head
  int64_t step;                // elements to the next page
  int count;

  __device__ uint32_t k_of(int i) const { return base + i % kStages * M::kStageBytes; }
  __device__ uint32_t v_of(int i) const { return k_of(i) + M::kOperandBytes; }
  __device__ uint32_t full(int i) const { return base + M::kFull + i % kStages * 8; }
  __device__ uint32_t done(int i) const { return base + M::kDone + i % kStages * 4; }

  __device__ void start_copy(int i) const {
    arrive_expecting(full(i), M::kStageBytes);
    copy_bytes(k_of(i), k + i * step, M::kOperandBytes, full(i));
    copy_bytes(v_of(i), v + i * step, M::kOperandBytes, full(i));
  }
  __device__ void await_page(int i) const { await(full(i), i / kStages & 1); }
  __device__ void done_with(int i) const {
    __syncwarp();
    if (threadIdx.x % kWarp != 0 || i + kStages >= count) return;
    if (count_up(done(i)) != kHopperThreads / kWarp - 1) return;
    reset_counter(done(i));
    start_copy(i + kStages);
  }
};

/// A thread's part of its warpgroup's 64 rows: rows lane / 4 and lane / 4 + 8 of its warp's 16.
template <int kDim>
struct GroupRows {
  uint32_t q[kDim / 16][4];
  float o[kDim / 2];
  float scores[kPage / 2];
  uint32_t weights[kPage / 16][4];
  float max[2] = {-INFINITY, -INFINITY}, total[2] = {}, rescale[2];

  /// Rows beyond the tile's last read the last again, and are not written.
  __device__ __forceinline__ void load_q(const AttentionCall& call, const TileWork& work, int row, int64_t h) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const auto row_at = [&](int r) {
      return call.q + ((work.first_row + min(r, work.rows - 1)) * call.args.heads + h) * kDim + 2 * (lane % 4);
    };
    const __nv_bfloat16 *const first = row_at(row), *const second = row_at(row + 8);
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      q[i][0] = *reinterpret_cast<const uint32_t*>(first + 16 * i);
      q[i][1] = *reinterpret_cast<const uint32_t*>(second + 16 * i);
      q[i][2] = *reinterpret_cast<const uint32_t*>(first + 16 * i + 8);
      q[i][3] = *reinterpret_cast<const uint32_t*>(second + 16 * i + 8);
    }
  }
  /// scores = q k^T, begun.
  __device__ __forceinline__ void begin_scores(uint32_t k) {
    const uint64_t tile = tile_descriptor(k);
    pin(scores);
    fence_registers();
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) multiply_64<1>(scores, q[i], tile + descriptor_step(i * 2048), i > 0);
    commit();
  }
  /// o += weights v, begun.
  __device__ __forceinline__ void begin_values(uint32_t v) {
    const uint64_t tile = tile_descriptor(v, kTileBytes);
    pin(o);
    fence_registers();
#pragma unroll
    for (int i = 0; i < kPage / 16; ++i) {
      if constexpr (kDim == 64) multiply_64<1>(o, weights[i], tile + descriptor_step(i * 2048), 1);
      if constexpr (kDim == 128) multiply_wide(o, weights[i], tile + descriptor_step(i * 2048));
    }
    commit();
  }
  /// Hides keys of the page: the first row sees keys `low` + 1 to `high` of it, the second `low` + 9 to `high` + 8.
  __device__ __forceinline__ void hide(int low, int high) {
    const int column = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
    for (int i = 0; i < kPage / 2; ++i) {
      const int key = i / 4 * 8 + column + i % 2 - i / 2 % 2 * 8;
      if (key <= low || key > high) scores[i] = -INFINITY;
    }
  }
  /// Scores become powers of two below the running maximum.
  __device__ __forceinline__ void take_scores() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float best = max[r];
#pragma unroll
      for (int i = 0; i < kPage / 8; ++i) best = fmaxf(best, fmaxf(scores[4 * i + 2 * r], scores[4 * i + 2 * r + 1]));
      best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 1));
      best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 2));
      const float base = best == -INFINITY ? 0.0f : best;  // a row that has seen no key yet
      rescale[r] = exp2_fast(max[r] - base);
      max[r] = best;
      float sum = total[r] * rescale[r];
#pragma unroll
      for (int i = 0; i < kPage / 8; ++i) {
        float &a = scores[4 * i + 2 * r], &b = scores[4 * i + 2 * r + 1];
        a = exp2_fast(a - base);
        b = exp2_fast(b - base);
        sum += a;
        sum += b;
      }
      total[r] = sum;
    }
  }
  /// After the products that read `weights` and write `o` have ended.
  __device__ __forceinline__ void take_weights() {
    if (__any_sync(kAllLanes, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) o[i] *= rescale[i / 2 % 2];
    }
#pragma unroll
    for (int i = 0; i < kPage / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[i][j] = pair_of(scores[8 * i + 2 * j], scores[8 * i + 2 * j + 1]);
    }
  }
  __device__ __forceinline__ void write(const AttentionCall& call, const TileWork& work, int row, int64_t h) {
    const ops::AttentionArgs& args = call.args;
#pragma unroll
    for (int r = 0; r < 2; ++r, row += 8) {
      float sum = total[r];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if (row >= work.rows) continue;
      float* const out = static_cast<float*>(args.out.data) + (work.first_row + row) * args.out.stride + h * kDim +
                         2 * (static_cast<int>(threadIdx.x) % 4);
      const float scale = 1.0f / sum;
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        out[8 * i] = o[4 * i + 2 * r] * scale;
        out[8 * i + 1] = o[4 * i + 2 * r + 1] * scale;
      }
    }
  }
};

#endif  // CAROUSEL_SM90A

/// A block per tile of 128 rows and query head.
template <int kDim>
__global__ void __launch_bounds__(kHopperThreads, kDim == 64 ? 2 : 1) attend_hopper(AttentionCall call) {
#if defined(CAROUSEL_SM90A)
  using M = HopperMemory<kDim>;
  extern __shared__ char unaligned[];
  const uint32_t address = shared_address(unaligned), base = (address + 1023) & ~1023u;
  await_inputs();
  const TileWork work(call, kGroups * kGroupRows);
  if (work.rows == 0) return;
  const int64_t h = blockIdx.y, g = h / (call.args.heads / call.args.kv_heads);
  Pages<kDim> pages;
  pages.base = base;
  pages.step = call.args.kv_heads * kDim * kPage;
  pages.k = call.k + ((work.packed + work.first) * call.args.kv_heads + g) * kDim * kPage;
  pages.v = call.v + ((work.packed + work.first) * call.args.kv_heads + g) * kDim * kPage;
  pages.count = static_cast<int>(work.last - work.first) + 1;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(pages.full(i), 1);
      reset_counter(pages.done(i));
    }
    publish_barriers();
    for (int i = 0; i < kStages && i < pages.count; ++i) pages.start_copy(i);
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int row = 16 * warp + lane / 4;
  const int window = static_cast<int>(min(work.window, int64_t{1} << 30));
  const int pos = static_cast<int>(work.pos - work.first * kPage) + row;  // from the first page's first key on
  GroupRows<kDim> rows;
  rows.load_q(call, work, row, h);
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) rows.o[i] = 0;
  const auto take_scores = [&](int i) {
    const int high = pos - i * kPage;
    const bool hides = __any_sync(kAllLanes, window > 0 || high < kPage - 1);
    if (hides) rows.hide(window > 0 ? high - window : -kPage, high);
    rows.take_scores();
  };
  pages.await_page(0);
  rows.begin_scores(pages.k_of(0));
  await_groups<0>();
  pin(rows.scores);
  take_scores(0);
  rows.take_weights();
  for (int i = 1; i < pages.count; ++i) {
    pages.await_page(i);
    rows.begin_scores(pages.k_of(i));
    rows.begin_values(pages.v_of(i - 1));
    await_groups<1>();
    pin(rows.scores);
    take_scores(i);
    await_groups<0>();
    pin(rows.o);
    pages.done_with(i - 1);
    rows.take_weights();
  }
  rows.begin_values(pages.v_of(pages.count - 1));
  await_groups<0>();
  pin(rows.o);
  rows.write(call, work, row, h);
#endif
}

template <int kDim>
void run_hopper(const Gpu::Impl& gpu, const AttentionCall& call) {
  constexpr size_t kBytes = HopperMemory<kDim>::kBytes;
  allow_shared(attend_hopper<kDim>, kBytes);
  launch_early(gpu, attend_hopper<kDim>, tiles_of(call, kGroups * kGroupRows), kHopperThreads, kBytes, call);
}

}  // namespace
}  // namespace carousel::cuda
