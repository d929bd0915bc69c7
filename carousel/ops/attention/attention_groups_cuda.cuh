// SPDX-License-Identifier: Apache-2.0
// Attention row by row, for heads of 64 and 128: a block takes one row and the query heads that share a key
// head, so that keys and values are read once for all of them. Spans, splits and joins are those of attention_cuda.cu;
// a block takes some neighbouring splits. Where a sequence has one row and all heads of a key head are one group, one
// kernel is the whole op:
//
// 1. The block whose splits end with the row's own position writes its key and value before it reads that page. No
//    other block reads it.
// 2. The last block of a row and group to have left its splits in call.splits joins them. It sees all: each block
//    publishes its own (__threadfence) before it counts itself. It leaves the counter at zero.
#pragma once

#include <cmath>

#include "carousel/ops/attention/attention_items_cuda.cuh"
#include "carousel/ops/attention/attention_prepare_cuda.cuh"
#include "carousel/ops/rows/fours_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kGroupThreads = 256, kGroupWarps = kGroupThreads / kWarp;
constexpr int kKeyFours = kPage / 4, kDimParts = kGroupThreads / kKeyFours;

/// max(), of which GroupPass has a member.
__device__ inline int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

template <int kDim, int kHeads>
struct alignas(16) GroupMemory {
  static constexpr int kDimFours = kDim / 4, kKeyParts = kGroupThreads / kDimFours;
  static_assert(kKeyParts * kDim == kDimParts * kPage);
  float q[kHeads][kDim];
  union {
    float parts[kKeyParts * kHeads * kDim];  // scores [kDimParts, kHeads, 64], or o [kKeyParts, kHeads, kDim]
    SplitWeights<kHeads> split_weights;      // once all splits are summed
  };
  float weights[kHeads][kPage], rescale[kHeads];
  float max[kHeads], total[kHeads];              // of a span
  float split_max[kHeads], split_total[kHeads];  // of the spans of a split
  float all_max[kHeads], all_total[kHeads];      // of the splits before
  float split_o[kHeads][kDim], all_o[kHeads][kDim];
};

/// sum += the four of `factors`, each times its row.
__device__ inline void add_fours(const float4& factors, const float4 (&rows)[4], float4* sum) {
  const float each[4] = {factors.x, factors.y, factors.z, factors.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    sum->x = fmaf(each[e], rows[e].x, sum->x);
    sum->y = fmaf(each[e], rows[e].y, sum->y);
    sum->z = fmaf(each[e], rows[e].z, sum->z);
    sum->w = fmaf(each[e], rows[e].w, sum->w);
  }
}

/// A block's pass over the keys of a row.
template <int kDim, int kHeads>
struct GroupPass {
  using Memory = GroupMemory<kDim, kHeads>;
  static constexpr int kHeadsOfWarp = (kHeads + kGroupWarps - 1) / kGroupWarps;
  Memory& memory;
  float4 o[kHeads];                              // four columns, over the thread's part of the keys
  float max[kHeadsOfWarp], total[kHeadsOfWarp];  // of the warp's heads

  __device__ void begin_span() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) o[h] = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kHeadsOfWarp; ++i) max[i] = -INFINITY, total[i] = 0;
  }
  /// Keys in columns of the page; each thread has a part of the depth of four of them.
  __device__ void score(Items<kDim>& items, int page) {
    constexpr int kEach = kDim / kDimParts, kPartsOfItem = kDimParts / Items<kDim>::kOfKeys;
    const int four = static_cast<int>(threadIdx.x) % kKeyFours, part = static_cast<int>(threadIdx.x) / kKeyFours;
    const float* const item = items.keys(page, part / kPartsOfItem) + part % kPartsOfItem * kEach * kPage;
    float4 dots[kHeads] = {};
#pragma unroll
    for (int e0 = 0; e0 < kEach; e0 += 4) {
      float4 k[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) k[e] = four_at(item, (e0 + e) * kPage + 4 * four);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) add_fours(four_at(memory.q[h], part * kEach + e0), k, &dots[h]);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) put_four(memory.parts, (part * kHeads + h) * kPage + 4 * four, dots[h]);
  }
  /// A warp per head: weights of the keys `first` to `last`.
  __device__ void weigh(int first, int last) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
    for (int i = 0; i < kHeadsOfWarp; ++i) {
      const int h = warp + i * kGroupWarps;
      if (h >= kHeads) break;
      float scores[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int key = lane + r * kWarp;
        float sum = 0;
#pragma unroll
        for (int part = 0; part < kDimParts; ++part) sum += memory.parts[(part * kHeads + h) * kPage + key];
        scores[r] = first <= key && key <= last ? sum : -INFINITY;
      }
      const float best = fmaxf(max[i], warp_max(fmaxf(scores[0], scores[1])));
      const float rescale = expf(max[i] - best), a = expf(scores[0] - best), b = expf(scores[1] - best);
      memory.weights[h][lane] = a;
      memory.weights[h][lane + kWarp] = b;
      if (lane == 0) memory.rescale[h] = rescale;
      total[i] = fmaf(total[i], rescale, warp_sum(a + b));
      max[i] = best;
    }
  }
  /// The block reads nothing beyond the keys: memory may hold no numbers there.
  __device__ void add_values(Items<kDim>& items, int page, int first, int last) {
    constexpr int kEach = kPage / Memory::kKeyParts, kPartsOfItem = Memory::kKeyParts / Items<kDim>::kOfKeys;
    const int four = static_cast<int>(threadIdx.x) % Memory::kDimFours;
    const int part = static_cast<int>(threadIdx.x) / Memory::kDimFours;
    const float* const item = items.values(page, part / kPartsOfItem) + part % kPartsOfItem * kEach * kDim;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float rescale = memory.rescale[h];
      o[h] = make_float4(o[h].x * rescale, o[h].y * rescale, o[h].z * rescale, o[h].w * rescale);
    }
#pragma unroll
    for (int e0 = 0; e0 < kEach; e0 += 4) {
      float4 v[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = part * kEach + e0 + e;
        v[e] = make_float4(0, 0, 0, 0);
        if (first <= key && key <= last) v[e] = four_at(item, (e0 + e) * kDim + 4 * four);
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) add_fours(four_at(memory.weights[h], part * kEach + e0), v, &o[h]);
    }
  }
  /// Joins the span to its split.
  __device__ void end_span() {
    const int four = static_cast<int>(threadIdx.x) % Memory::kDimFours;
    const int part = static_cast<int>(threadIdx.x) / Memory::kDimFours;
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    __syncthreads();  // the last scores are read
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      *reinterpret_cast<float4*>(memory.parts + (part * kHeads + h) * kDim + 4 * four) = o[h];
    }
#pragma unroll
    for (int i = 0; i < kHeadsOfWarp; ++i) {
      const int h = warp + i * kGroupWarps;
      if (h < kHeads && lane == 0) memory.max[h] = max[i], memory.total[h] = total[i];
    }
    __syncthreads();
    join(memory.max, memory.total, memory.split_max, memory.split_total, memory.split_o, [&](int h, int i) {
      float sum = 0;
#pragma unroll
      for (int p = 0; p < Memory::kKeyParts; ++p) sum += memory.parts[(p * kHeads + h) * kDim + i];
      return sum;
    });
  }
  /// Adds the sums of one more part of the keys to those of the parts before it.
  template <class F>
  __device__ static void join(const float* max, const float* total, float* all_max, float* all_total,
                              float (*all_o)[kDim], const F& o) {
    for (int at = static_cast<int>(threadIdx.x); at < kHeads * kDim; at += kGroupThreads) {
      const int h = at / kDim, i = at % kDim;
      const float best = fmaxf(all_max[h], max[h]);
      all_o[h][i] = fmaf(o(h, i), expf(max[h] - best), all_o[h][i] * expf(all_max[h] - best));
    }
    __syncthreads();
    const int h = static_cast<int>(threadIdx.x);
    if (h < kHeads) {
      const float best = fmaxf(all_max[h], max[h]);
      all_total[h] = fmaf(total[h], expf(max[h] - best), all_total[h] * expf(all_max[h] - best));
      all_max[h] = best;
    }
    __syncthreads();
  }
  __device__ static void clear(float* max, float* total, float (*o)[kDim]) {
    for (int at = static_cast<int>(threadIdx.x); at < kHeads * kDim; at += kGroupThreads) o[at / kDim][at % kDim] = 0;
    if (threadIdx.x < kHeads) max[threadIdx.x] = -INFINITY, total[threadIdx.x] = 0;
    __syncthreads();
  }
  /// The sums over the spans of split i, in memory.split_*.
  __device__ void sum_split(Items<kDim>& items, const RowWork& work, int split) {
    clear(memory.split_max, memory.split_total, memory.split_o);
    for (int64_t span = work.first_span(split), end = work.first_span(split + 1); span < end; ++span) {
      begin_span();
      const int64_t first_page = larger_of(work.first_key / kPage, span * kSpanPages);
      const int64_t last_page = min(work.pos / kPage, (span + 1) * kSpanPages - 1);
      for (int64_t page = first_page; page <= last_page; ++page) {
        const int first = static_cast<int>(larger_of(work.first_key - page * kPage, int64_t{0}));
        const int last = static_cast<int>(min(work.pos - page * kPage, int64_t{kPage - 1}));
        const auto at = static_cast<int>(page - items.first_page);
        score(items, at);
        __syncthreads();
        items.done_with_keys(at);
        weigh(first, last);
        __syncthreads();
        add_values(items, at, first, last);
      }
      end_span();
    }
  }
  /// Joins split i to those before it, in memory.all_*.
  __device__ void join_split() {
    join(memory.split_max, memory.split_total, memory.all_max, memory.all_total, memory.all_o,
         [&](int h, int column) { return memory.split_o[h][column]; });
  }
};

/// A warp writes the row's value to its page, and lets copies see it and the key that it wrote before.
__device__ inline void write_value(const AttentionCall& call, const RowWork& work, const float* v) {
  const auto d = static_cast<int>(call.args.head_dim);
  float* const to = call.v_page(work.s, work.pos / kPage) + (work.g * kPage + work.pos % kPage) * d;
  for (int j = static_cast<int>(threadIdx.x) % kWarp; j < d; j += kWarp) to[j] = v[j];
  fence_for_async_copies();
}

/// Whether this block is the last of `count` to come here.
__device__ inline bool is_last_of(int* arrived, int count) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(arrived, 1) + 1 == count;
    if (is_last) *arrived = 0;
  }
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}

template <int kDim, int kHeads>
struct GroupLayout {
  static constexpr size_t kItems = sizeof(GroupMemory<kDim, kHeads>);
  static constexpr size_t kBytes = kItems + Items<kDim>::kBytes;
  static_assert(kItems % 16 == 0);
};

/// A block per row, group of kHeads query heads, and kSplits / gridDim.z neighbouring splits.
template <int kDim, int kHeads>
__global__ void __launch_bounds__(kGroupThreads) attend_groups(AttentionCall call) {
  extern __shared__ __align__(16) char group_memory[];
  using Memory = GroupMemory<kDim, kHeads>;
  Memory& memory = *reinterpret_cast<Memory*>(group_memory);
  await_inputs();
  const ops::AttentionArgs& args = call.args;
  const int64_t n = blockIdx.x, first_head = int64_t{blockIdx.y} * kHeads;
  const RowWork work(args, n, first_head, call.writes_keys);
  const int each = kSplits / static_cast<int>(gridDim.z), blocks = work.filled(static_cast<int>(gridDim.z));
  const bool alone = blocks == 1;  // this block takes all splits
  const int first_split = static_cast<int>(blockIdx.z) * each, end_split = first_split + each;
  if (work.first_span(first_split) == work.first_span(end_split)) return;
  const bool ends = end_split == kSplits, writes = ends && call.writes_keys;

  Items<kDim> items(group_memory + GroupLayout<kDim, kHeads>::kItems, call, work, work.first_page(first_split),
                    work.first_page(end_split), writes);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  // A warp prepares a query head, or the key.
  float* const k_to = call.k_page(work.s, work.pos / kPage) + work.g * kDim * kPage + work.pos % kPage;
#pragma unroll 1
  for (int h = warp; h < kHeads + (writes ? 1 : 0); h += kGroupWarps) {
    const bool is_key = h == kHeads;
    const float* const x = call.row(n) + (is_key ? args.heads + work.g : first_head + h) * kDim;
    prepare_row(
        args, [&](int64_t j) { return Rotation(work.pos, args.inv_freq[j]); }, x, is_key ? args.k_norm : args.q_norm,
        is_key ? 1.0f : 1.0f / sqrtf(static_cast<float>(kDim)),
        [&](int j, float value) { (is_key ? k_to : &memory.q[h][0])[is_key ? j * kPage : j] = value; });
    if (is_key) write_value(call, work, x + args.kv_heads * kDim);
  }
  __syncthreads();
  items.start_rest();
  GroupPass<kDim, kHeads> pass = {memory};
  if (!alone) {
    for (int i = first_split; i < end_split; ++i) {
      if (work.first_span(i) == work.first_span(i + 1)) continue;
      pass.sum_split(items, work, i);
      for (int at = static_cast<int>(threadIdx.x); at < kHeads * (kDim + 2); at += kGroupThreads) {
        const int h = at / (kDim + 2), j = at % (kDim + 2);
        const float value = j < kDim ? memory.split_o[h][j] : j == kDim ? memory.split_max[h] : memory.split_total[h];
        call.splits[((n * args.heads + first_head + h) * kSplits + i) * (kDim + 2) + j] = value;
      }
      __syncthreads();
    }
    if (is_last_of(call.arrived + n * gridDim.y + blockIdx.y, blocks)) {
      join_splits_of<kHeads, kGroupThreads>(call, work, n, first_head, memory.split_weights);
    }
    return;
  }
  pass.clear(memory.all_max, memory.all_total, memory.all_o);
  for (int k = 0; k < work.filled(kSplits); ++k) {
    pass.sum_split(items, work, work.filled_split(k));
    pass.join_split();
  }
  for (int at = static_cast<int>(threadIdx.x); at < kHeads * kDim; at += kGroupThreads) {
    const int h = at / kDim, i = at % kDim;
    static_cast<float*>(args.out.data)[n * args.out.stride + (first_head + h) * kDim + i] =
        memory.all_o[h][i] / memory.all_total[h];
  }
}

/// How many query heads a block takes together; 0: these heads are not for attend_groups().
int64_t heads_together(const ops::AttentionArgs& args) {
  if (args.head_dim != 64 && args.head_dim != 128) return 0;
  const int64_t sharing = args.heads / args.kv_heads;
  return sharing % 4 == 0 ? 4 : sharing % 3 == 0 ? 3 : sharing % 2 == 0 ? 2 : 1;
}

/// Blocks that share the splits of a row and group: as many as run at a time, whatever the rows have seen.
int64_t split_blocks(const Gpu::Impl& gpu, const AttentionCall& call, int64_t together) {
  if (call.splits == nullptr) return 1;
  const int64_t rows_and_groups = call.args.seqs.rows() * (call.args.heads / together);
  int64_t blocks = kSplits;
  while (blocks > 1 && rows_and_groups * blocks > int64_t{2} * gpu.multiprocessors) blocks /= 2;
  return blocks;
}

template <int kDim, int kHeads>
void run_groups_with(const Gpu::Impl& gpu, const AttentionCall& call) {
  constexpr size_t kBytes = GroupLayout<kDim, kHeads>::kBytes;
  allow_shared(attend_groups<kDim, kHeads>, kBytes);
  const ops::AttentionArgs& args = call.args;
  const dim3 grid(static_cast<unsigned>(args.seqs.rows()), static_cast<unsigned>(args.heads / kHeads),
                  static_cast<unsigned>(split_blocks(gpu, call, kHeads)));
  launch_early(gpu, attend_groups<kDim, kHeads>, grid, kGroupThreads, kBytes, call);
}

template <int kDim, int kHeads>
struct GroupShape {};

/// Calls f with the shape: the width of a head and how many are taken together.
template <int kDim, class F>
auto with_heads(int64_t together, const F& f) {
  if (together == 4) return f(GroupShape<kDim, 4>{});
  if (together == 3) return f(GroupShape<kDim, 3>{});
  if (together == 2) return f(GroupShape<kDim, 2>{});
  return f(GroupShape<kDim, 1>{});
}
template <class F>
auto with_group(const ops::AttentionArgs& args, int64_t together, const F& f) {
  return args.head_dim == 64 ? with_heads<64>(together, f) : with_heads<128>(together, f);
}

/// Shared memory of a block: cards with less than 100 KB cannot run all of these kernels.
size_t group_bytes(const ops::AttentionArgs& args, int64_t together) {
  return with_group(args, together,
                    []<int kDim, int kHeads>(GroupShape<kDim, kHeads>) { return GroupLayout<kDim, kHeads>::kBytes; });
}

void run_groups(const Gpu::Impl& gpu, const AttentionCall& call, int64_t together) {
  with_group(call.args, together,
             [&]<int kDim, int kHeads>(GroupShape<kDim, kHeads>) { run_groups_with<kDim, kHeads>(gpu, call); });
}

}  // namespace
}  // namespace carousel::cuda
