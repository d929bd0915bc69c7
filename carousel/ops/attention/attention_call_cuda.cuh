// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention on the GPU share: where pages lie, and the memory between the kernels of one call.
#pragma once

#include <cuda_bf16.h>

#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/attention/attention_cpu.h"
#include "carousel/ops/attention/rotary.h"

namespace carousel::cuda {

constexpr int kPage = static_cast<int>(kPageRows);
constexpr int kSplits = 64;        // of a row's keys, where each has a block
constexpr int64_t kSpanPages = 4;  // of a span, whose sums are formed by themselves

/// Pages of a sequence that are read for `rows` rows from position `pos` on.
__host__ __device__ constexpr int64_t pages_of(int64_t rows, int64_t pos) {
  return rows == 0 ? 0 : (pos + rows + kPage - 1) / kPage;
}

/// The rotation of a pair of elements. Whole turns are taken from the angle in f64, where little else is needed for a
/// cosine and a sine that are exact to the last bit but one.
struct Rotation {
  float cosine, sine;

  __device__ Rotation(int64_t pos, float inv_freq) {
    constexpr double kTurn = 6.283185307179586;
    const double angle = ops::rotary_angle(pos, inv_freq);
    const double rest = fma(-rint(angle * (1 / kTurn)), kTurn, angle);
    const auto high = static_cast<float>(rest), low = static_cast<float>(rest - static_cast<double>(high));
    float of_sine, of_cosine;
    sincosf(high, &of_sine, &of_cosine);
    cosine = fmaf(-of_sine, low, of_cosine);
    sine = fmaf(of_cosine, low, of_sine);
  }
  __device__ Rotation(float known_cosine, float known_sine) : cosine(known_cosine), sine(known_sine) {}
  __device__ ops::RotaryPair<FloatMath> operator()(float a, float b) const {
    return ops::rotate<FloatMath>({a, b}, cosine, sine);
  }
};

struct AttentionCall {
  ops::AttentionArgs args;
  float *own_k, *own_v;  // pages of a batch that keeps no state: [rows / 64 + B, G, d, 64]
  float* splits;         // [N, H, kSplits, d + 2] o, max and total of each split; null: a block has whole rows
  int* arrived;          // counters of the GPU: zeros between kernels
  bool writes_keys;      // whether attend_groups() writes new keys and values too
  // For tiles on tensor cores (attention_prepare_cuda.cuh):
  float2* rotations;  // [N, rotary / 2] cosine and sine
  __nv_bfloat16* q;   // [N, H, d] prepared queries
  __nv_bfloat16* k;   // [pages, G, d, 64] all pages end to end, as swizzled tiles
  __nv_bfloat16* v;   // [pages, G, d / 64, 64, 64] the same

  __device__ int64_t page_floats() const { return args.kv_heads * args.head_dim * kPage; }
  /// Page p of sequence s. A batch without states has its pages end to end, with room for one begun page each.
  __device__ float* page(float* const* const* table, float* own, int64_t s, int64_t p) const {
    return table != nullptr ? table[s][p] : own + (args.seqs.there[s] / kPage + s + p) * page_floats();
  }
  __device__ float* k_page(int64_t s, int64_t p) const { return page(args.k_pages, own_k, s, p); }
  __device__ float* v_page(int64_t s, int64_t p) const { return page(args.v_pages, own_v, s, p); }
  __device__ const float* row(int64_t n) const {
    return static_cast<const float*>(args.qkv.data) + n * args.qkv.stride;
  }
};

/// A block reads this of one row and query head.
struct RowWork {
  int64_t s, h, g, pos, first_key;

  /// `one_each`: every sequence has one row.
  __device__ RowWork(const ops::AttentionArgs& args, int64_t n, int64_t head, bool one_each)
      : s(one_each ? n : sequence_of_row(args.seqs.there, args.seqs.batch, n)),
        h(head),
        g(static_cast<int>(head) / static_cast<int>(args.heads / args.kv_heads)) {
    const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
    pos = seq.pos + n - seq.first_row;
    first_key = ops::first_seen(pos, args.window);
  }
  __device__ int64_t before_spans() const { return first_key / (kSpanPages * kPage); }
  __device__ int64_t spans() const { return pos / (kSpanPages * kPage) + 1 - before_spans(); }
  /// The first span of split i; that of split kSplits is the end of the last one.
  __device__ int64_t first_span(int i) const { return before_spans() + i * spans() / kSplits; }
  /// The first page of split i; that of split kSplits is the end of the last one.
  __device__ int64_t first_page(int i) const {
    const int64_t page = first_span(i) * kSpanPages, seen = first_key / kPage, end = pos / kPage + 1;
    return page < seen ? seen : page < end ? page : end;
  }
  /// How many of `parts` equal parts of the splits have spans, and which split is the k-th that has.
  __device__ int filled(int parts) const { return static_cast<int>(spans() < parts ? spans() : parts); }
  __device__ int filled_split(int k) const {
    const int count = filled(kSplits);
    return ((k + 1) * kSplits + count - 1) / count - 1;
  }
};

/// The splits of a row that have spans weigh so much beside each other, for kHeads query heads.
template <int kHeads>
struct SplitWeights {
  int at[kSplits];  // where each begins in call.splits, from the head's first split on
  float total[kHeads][kSplits];
  float2 powers[kHeads][kSplits];  // weights of the splits before, and of the split
};

/// Warps weigh the splits of the heads, from running maxima.
template <int kHeads>
__device__ inline void weigh_splits(const float* splits, const RowWork& work, int d, SplitWeights<kHeads>& weights) {
  static_assert(kSplits == 2 * kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int count = work.filled(kSplits), first = 2 * lane;
  int at[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) at[j] = first + j < count ? work.filled_split(first + j) * (d + 2) : 0;
  for (int h = warp; h < kHeads; h += static_cast<int>(blockDim.x) / kWarp) {
    float max[2], total[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float* const sums = splits + h * kSplits * (d + 2) + at[j] + d;
      max[j] = first + j < count ? sums[0] : -INFINITY;
      total[j] = first + j < count ? sums[1] : 0.0f;
    }
    float best = fmaxf(max[0], max[1]);
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const float other = __shfl_up_sync(kAllLanes, best, distance);
      if (lane >= distance) best = fmaxf(best, other);
    }
    best = __shfl_up_sync(kAllLanes, best, 1);
    if (lane == 0) best = -INFINITY;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float with = fmaxf(best, max[j]);
      weights.powers[h][first + j] = make_float2(expf(best - with), expf(max[j] - with));
      weights.total[h][first + j] = total[j];
      best = with;
    }
    if (h > 0) continue;
#pragma unroll
    for (int j = 0; j < 2; ++j) weights.at[first + j] = at[j];
  }
}

/// The block of kThreads joins the splits of kHeads query heads of row n, from call.splits, one after the other. Their
/// powers are computed side by side beforehand, and loads are on their way together: in their order they would wait for
/// memory every time.
template <int kHeads, int kThreads>
__device__ inline void join_splits_of(const AttentionCall& call, const RowWork& work, int64_t n, int64_t first_head,
                                      SplitWeights<kHeads>& weights) {
  const ops::AttentionArgs& args = call.args;
  const auto d = static_cast<int>(args.head_dim);
  const float* const splits = call.splits + (n * args.heads + first_head) * kSplits * (d + 2);
  weigh_splits<kHeads>(splits, work, d, weights);
  __syncthreads();
  constexpr int kAtOnce = 32;
  const int count = work.filled(kSplits);
  float* const out = static_cast<float*>(args.out.data) + n * args.out.stride + first_head * d;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < kHeads * d; at += kThreads) {
    const int h = at / d;
    const float* const column = splits + h * kSplits * (d + 2) + at % d;
    float o = 0, total = 0;
#pragma unroll 1
    for (int k0 = 0; k0 < count; k0 += kAtOnce) {
      // Splits beyond the last one weigh nothing. A branch would have the compiler put the loads behind it, where each
      // load waits for memory by itself.
      float loaded[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) loaded[k] = column[weights.at[k0 + k]];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const float2 powers = weights.powers[h][k0 + k];
        o = fmaf(k0 + k < count ? loaded[k] : 0.0f, powers.y, o * powers.x);
        total = fmaf(weights.total[h][k0 + k], powers.y, total * powers.x);
      }
    }
    out[at] = o / total;
  }
}

}  // namespace carousel::cuda
