// SPDX-License-Identifier: Apache-2.0
// Attention on the GPU: new keys and values are written to their pages, then blocks pass over the pages with a running
// maximum (arXiv:1805.02867), span by span. A row's spans are cut into splits by its own position. Spans are joined in
// their order to splits, and splits to the row: by one block per row and query head where there are many, else by a
// block per split, so that a single row occupies the GPU too. A row meets the same pages with the same operations
// either way and whatever is beside it. Heads of 64 and 128 go by groups (attention_groups_cuda.cuh); in bf16 many rows
// of them go in tiles.
#include <cmath>

#include "carousel/cpu/workspace.h"
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/attention/attention_groups_cuda.cuh"
#include "carousel/ops/attention/attention_hopper_cuda.cuh"
#include "carousel/ops/attention/attention_tiles_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kHalves = kThreads / kPage;  // threads that share the dot product of a key
constexpr int64_t kFewRows = 1024;         // rows times heads up to which splits may have blocks

/// The block's out = rotate(norm(x)) * scale of one head at position `pos`; `stride` floats between the elements of
/// out.
__device__ void prepare(const ops::AttentionArgs& args, const float* x, const float* norm, int64_t pos, float scale,
                        float* out, int64_t stride) {
  __shared__ float shared[kWarp];
  const int64_t d = args.head_dim, half = args.rotary / 2;
  float r = 1;
  if (norm != nullptr) {
    float squares = 0;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) squares = fmaf(x[j], x[j], squares);
    r = 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(d) + args.norm_eps);
  }
  const auto normed = [&](int64_t j) { return norm == nullptr ? x[j] : x[j] * r * norm[j]; };
  for (int64_t j = args.rotary + threadIdx.x; j < d; j += blockDim.x) out[j * stride] = normed(j) * scale;
  for (int64_t j = threadIdx.x; j < half; j += blockDim.x) {
    const auto pair = Rotation(pos, args.inv_freq[j])(normed(j), normed(j + half));
    out[j * stride] = pair.a * scale;
    out[(j + half) * stride] = pair.b * scale;
  }
}

/// A block per row and key head.
__global__ void write_pages(AttentionCall call) {
  await_inputs();
  const ops::AttentionArgs& args = call.args;
  const int64_t n = blockIdx.x, g = blockIdx.y, d = args.head_dim;
  const int64_t s = sequence_of_row(args.seqs.there, args.seqs.batch, n);
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  const int64_t pos = seq.pos + n - seq.first_row;
  const float* const k = call.row(n) + (args.heads + g) * d;
  const float* const v = call.row(n) + (args.heads + args.kv_heads + g) * d;
  prepare(args, k, args.k_norm, pos, 1.0f, call.k_page(s, pos / kPage) + g * d * kPage + pos % kPage, kPage);
  float* const v_row = call.v_page(s, pos / kPage) + (g * kPage + pos % kPage) * d;
  for (int64_t j = threadIdx.x; j < d; j += blockDim.x) v_row[j] = v[j];
}

/// Sums of one row over some keys: o [d] is in shared memory.
struct Sums {
  float* o;
  float max, total;
};

/// Takes the keys of a page that lie in [first, last] of it; p [2, 64] is scratch memory.
__device__ void take_page(const float* q, const float* k_page, const float* v_page, int64_t d, int first, int last,
                          float* p, Sums* sums) {
  __shared__ float shared[kWarp];
  const int key = static_cast<int>(threadIdx.x) % kPage, part = static_cast<int>(threadIdx.x) / kPage;
  const int64_t share = (d + kHalves - 1) / kHalves, end = (part + 1) * share < d ? (part + 1) * share : d;
  float dot = 0;
  for (int64_t i = part * share; i < end; ++i) dot = fmaf(q[i], k_page[i * kPage + key], dot);
  p[part * kPage + key] = dot;
  __syncthreads();
  const bool seen = first <= key && key <= last;
  float score = 0;
  for (int i = 0; i < kHalves; ++i) score += p[i * kPage + key];
  const float best = fmaxf(sums->max, block_max(seen ? score : -INFINITY, shared));
  const float weight = seen ? expf(score - best) : 0.0f, rescale = expf(sums->max - best);
  if (part == 0) p[key] = weight;  // every thread has read its score: block_max waits
  sums->total = fmaf(sums->total, rescale, block_sum(part == 0 ? weight : 0.0f, shared));
  sums->max = best;
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
    float o = sums->o[i] * rescale;
    for (int j = first; j <= last; ++j) o = fmaf(p[j], v_page[j * d + i], o);
    sums->o[i] = o;
  }
  __syncthreads();
}

/// Adds the sums of a span to those of the spans before it.
__device__ void join(const Sums& span, int64_t d, Sums* all) {
  const float best = fmaxf(all->max, span.max);
  const float before = expf(all->max - best), added = expf(span.max - best);
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x) all->o[i] = fmaf(span.o[i], added, all->o[i] * before);
  all->total = fmaf(span.total, added, all->total * before);
  all->max = best;
}

/// The block's scratch memory.
struct RowMemory {
  float *q, *p, *o, *split_o, *span_o;  // [d], [2, 64], [d], [d], [d]

  __device__ RowMemory(float* memory, int64_t d)
      : q(memory), p(q + d), o(p + kHalves * kPage), split_o(o + d), span_o(split_o + d) {}
};

__device__ void clear(float* o, int64_t d) {
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x) o[i] = 0;
}

/// The sums over the spans of split i, in memory.split_o.
__device__ Sums sum_split(const AttentionCall& call, const RowWork& work, const RowMemory& memory, int i) {
  const int64_t d = call.args.head_dim;
  Sums split = {memory.split_o, -INFINITY, 0};
  clear(split.o, d);
  for (int64_t span = work.first_span(i), end = work.first_span(i + 1); span < end; ++span) {
    Sums sums = {memory.span_o, -INFINITY, 0};
    clear(sums.o, d);
    const int64_t first_page = max(work.first_key / kPage, span * kSpanPages);
    const int64_t last_page = min(work.pos / kPage, (span + 1) * kSpanPages - 1);
    for (int64_t page = first_page; page <= last_page; ++page) {
      const int first = static_cast<int>(max(work.first_key - page * kPage, int64_t{0}));
      const int last = static_cast<int>(min(work.pos - page * kPage, int64_t{kPage - 1}));
      take_page(memory.q, call.k_page(work.s, page) + work.g * d * kPage,
                call.v_page(work.s, page) + work.g * kPage * d, d, first, last, memory.p, &sums);
    }
    join(sums, d, &split);
  }
  return split;
}

/// The row's result, from its sums over all keys.
__device__ void write_row(const ops::AttentionArgs& args, int64_t n, int64_t h, const Sums& all) {
  float* const out = static_cast<float*>(args.out.data) + n * args.out.stride + h * args.head_dim;
  for (int64_t i = threadIdx.x; i < args.head_dim; i += blockDim.x) out[i] = all.o[i] / all.total;
}

/// A block per row and query head, and split where call.splits is there.
__global__ void __launch_bounds__(kThreads) attend(AttentionCall call) {
  await_inputs();
  extern __shared__ float shared_memory[];
  const ops::AttentionArgs& args = call.args;
  const int64_t n = blockIdx.x, d = args.head_dim;
  const RowWork work(args, n, blockIdx.y, false);
  const RowMemory memory(shared_memory, d);
  const auto one = static_cast<int>(blockIdx.z);
  if (call.splits != nullptr && work.first_span(one) == work.first_span(one + 1)) return;
  prepare(args, call.row(n) + work.h * d, args.q_norm, work.pos, 1.0f / sqrtf(static_cast<float>(d)), memory.q, 1);
  __syncthreads();
  if (call.splits != nullptr) {
    const Sums split = sum_split(call, work, memory, one);
    float* const out = call.splits + ((n * args.heads + work.h) * kSplits + one) * (d + 2);
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) out[i] = split.o[i];
    if (threadIdx.x == 0) out[d] = split.max;
    if (threadIdx.x == 0) out[d + 1] = split.total;
    return;
  }
  Sums all = {memory.o, -INFINITY, 0};
  clear(all.o, d);
  for (int i = 0; i < kSplits; ++i) {
    if (work.first_span(i) < work.first_span(i + 1)) join(sum_split(call, work, memory, i), d, &all);
  }
  write_row(args, n, work.h, all);
}

/// A block per row and query head joins what attend() left in call.splits.
__global__ void __launch_bounds__(kThreads) join_splits(AttentionCall call) {
  __shared__ SplitWeights<1> weights;
  await_inputs();
  const RowWork work(call.args, blockIdx.x, blockIdx.y, false);
  join_splits_of<1, kThreads>(call, work, blockIdx.x, blockIdx.y, weights);
}

/// Whether a call takes tiles on tensor cores, in bf16. A step of one row per sequence never does: tiles are laid out
/// by the positions that the host knows, which a recorded step must not depend on (model/replay.cc).
bool takes_tiles(const Stream& stream, const ops::AttentionArgs& args) {
  return stream.compute == Compute::kBF16 && args.seqs.rows() * args.heads > kFewRows &&
         args.seqs.rows() > args.seqs.batch && (args.head_dim == 64 || args.head_dim == 128);
}

AttentionCall lay_out(const Stream& stream, const ops::AttentionArgs& args, cpu::Workspace* workspace) {
  AttentionCall call = {};
  call.args = args;
  const int64_t row_heads = args.seqs.rows() * args.heads, page_floats = args.kv_heads * args.head_dim * kPage;
  if (row_heads <= kFewRows) call.splits = workspace->take<float>(row_heads * kSplits * (args.head_dim + 2));
  if (takes_tiles(stream, args)) {
    int64_t seen = 0;
    for (int64_t s = 0; s < args.seqs.batch; ++s) seen += pages_of(args.seqs.length(s), args.seqs.pos[s]);
    call.rotations = workspace->take<float2>(args.seqs.rows() * (args.rotary / 2));
    call.q = workspace->take<__nv_bfloat16>(row_heads * args.head_dim);
    call.k = workspace->take<__nv_bfloat16>(seen * page_floats);
    call.v = workspace->take<__nv_bfloat16>(seen * page_floats);
  }
  if (args.k_pages != nullptr) return call;
  const int64_t pages = args.seqs.rows() / kPage + args.seqs.batch;
  call.own_k = workspace->take<float>(pages * page_floats);
  call.own_v = workspace->take<float>(pages * page_floats);
  return call;
}

/// Prepared, then a block per tile and query head.
void attend_in_tiles(const Gpu::Impl& gpu, const AttentionCall& call) {
  prepare_for_tiles(gpu, call);
  const bool narrow = call.args.head_dim == 64;
  if (gpu.is_hopper && gpu.runs(Fast::kAttention)) {
    narrow ? run_hopper<64>(gpu, call) : run_hopper<128>(gpu, call);
  } else {
    narrow ? run_tiles<64>(gpu, call) : run_tiles<128>(gpu, call);
  }
}

/// Shared memory of a block of `attend`.
size_t attend_bytes(const ops::AttentionArgs& args) {
  return static_cast<size_t>(4 * args.head_dim + kHalves * kPage) * sizeof(float);
}

}  // namespace

int64_t attention_workspace(const Stream& stream, const ops::AttentionArgs& args) {
  check_shared(stream, attend_bytes(args), "attention with heads this wide");
  cpu::Workspace workspace;
  lay_out(stream, args, &workspace);
  return workspace.bytes();
}

void attention(const Stream& stream, const ops::AttentionArgs& args) {
  if (args.log_sums != nullptr) not_on_device("attention under a tape");
  cpu::Workspace workspace(args.workspace);
  AttentionCall call = lay_out(stream, args, &workspace);
  const Gpu::Impl& gpu = gpu_of(stream);
  call.arrived = gpu.arrived;
  const auto rows = static_cast<unsigned>(args.seqs.rows()), heads = static_cast<unsigned>(args.heads);
  if (takes_tiles(stream, args)) return attend_in_tiles(gpu, call);
  const int64_t together = heads_together(args);
  const bool by_groups = together > 0 && gpu.runs(Fast::kAttention) && group_bytes(args, together) <= gpu.shared_bytes;
  call.writes_keys = by_groups && together * args.kv_heads == args.heads && one_row_each(args.seqs);
  if (!call.writes_keys) {
    launch_early(gpu, write_pages, dim3(rows, static_cast<unsigned>(args.kv_heads)), kThreads, 0, call);
  }
  if (by_groups) return run_groups(gpu, call, together);
  const size_t bytes = attend_bytes(args);
  allow_shared(attend, bytes);
  launch_early(gpu, attend, dim3(rows, heads, call.splits != nullptr ? kSplits : 1), kThreads, bytes, call);
  if (call.splits != nullptr) launch_early(gpu, join_splits, dim3(rows, heads), kThreads, 0, call);
}

}  // namespace carousel::cuda
