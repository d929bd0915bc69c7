// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell on the GPU: its steps (arXiv:2405.04517, sec. 2.3), which pass once over C, and the
// launches of a call.
#include <algorithm>

#include "carousel/cpu/workspace.h"
#include "carousel/cuda/async.cuh"
#include "carousel/ops/mlstm/mlstm_chunk_cuda.cuh"
#include "carousel/ops/mlstm/mlstm_tensor_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kStepThreads = 256, kStepBlocks = 2;  // of `step` that run on a multiprocessor

/// A barrier of the block's first threads.
template <int kCount>
__device__ void sync_first() {
  asm volatile("bar.sync 1, %0;" ::"n"(kCount) : "memory");
}

/// Which of a sequence's pieces of one row.
enum class StepOf : uint8_t { kFirst, kLast };

/// The row of the batch that is this step of the sequence; -1: it has none.
__device__ int64_t step_row(const SequenceRows& seq, StepOf which) {
  if (which == StepOf::kFirst) return seq.first_is_step() ? seq.first : -1;
  return seq.last_is_step() ? seq.first + seq.rows - 1 : -1;
}

/// kVec neighbouring elements of C, which a step reads and writes once: they should not push others out of the caches.
template <int kVec>
struct alignas(4 * kVec) Neighbours {
  float of[kVec];

  __device__ void read(const float* from) {
    if constexpr (kVec == 4) {
      *reinterpret_cast<float4*>(this) = __ldcs(reinterpret_cast<const float4*>(from));
    } else {
      of[0] = __ldcs(from);
    }
  }
  __device__ void write(float* to) const {
    if constexpr (kVec == 4) {
      __stcs(reinterpret_cast<float4*>(to), *reinterpret_cast<const float4*>(this));
    } else {
      __stcs(to, of[0]);
    }
  }
};

/// A step changes the states of one head by these.
struct StepWeights : ops::MlstmStep<FloatMath> {
  /// Whole warps call this: their even lanes cap one gate, their odd lanes the other.
  __device__ static StepWeights of(const MlstmCall& call, int64_t row, int64_t s, int64_t h) {
    const float before = *call.m_of(s, h);
    const float own = call.capped(*call.row(threadIdx.x % 2 == 0 ? call.args.i_pre : call.args.f_pre, row, h));
    const float i = __shfl_sync(kAllLanes, own, 0);
    const float log_f = log_sigmoid<FloatMath>(__shfl_sync(kAllLanes, own, 1));
    return {ops::mlstm_step<FloatMath>(i, log_f, before)};
  }
  __device__ float next_n(const MlstmCall& call, float k, float n) const {
    return fmaf(i_act, call.scale_k() * k, f_act * n);
  }
  /// Values to what they add to C for a key of 1.
  template <int kVec>
  __device__ void weigh(const MlstmCall& call, Neighbours<kVec>* v) const {
#pragma unroll
    for (int j = 0; j < kVec; ++j) v->of[j] = i_act * call.scale_k() * v->of[j];
  }
};

/// A block's pass over kAcross value columns of a head's C. Its threads hold their first rows while the weights are
/// formed. The sums have one order, however many columns a block has.
template <int kVec, int kAcross = kColumns>
struct StatePass {
  static constexpr int kTogether = kAcross / kColumns;  // warps whose rows are those of one warp with kColumns columns
  static constexpr int kThreads = kStepThreads * kTogether, kWarps = kThreads / kWarp;
  static constexpr int kLanes = kAcross / kVec, kAtOnce = kThreads / kLanes, kHeld = 8;
  static_assert(kTogether == 1 || (kTogether == 2 && kLanes <= kWarp));

  float* c;  // of the thread's first column
  int dk, dv, column, first;
  Neighbours<kVec> held[kHeld];

  __device__ StatePass(const MlstmCall& call, int64_t s, int64_t h)
      : dk(static_cast<int>(call.args.dims.dk)), dv(static_cast<int>(call.args.dims.dv)) {
    const int thread = static_cast<int>(threadIdx.x);
    first = thread / kLanes;
    column = static_cast<int>(blockIdx.x) * kAcross + thread % kLanes * kVec;
    c = call.c_of(s, h) + column;
    // The first blocks wait for the kernel before this one, and ask for C meanwhile. Only the second level of cache
    // gets it, since another kernel may still write it.
    constexpr unsigned kFirstBlocks = 512;
    if ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x >= kFirstBlocks) return;
    const float* const block = c - thread % kLanes * kVec;
    for (int i = thread; i < dk * kTogether; i += kThreads) {
      const int across = i % kTogether * kColumns;
      if (static_cast<int>(blockIdx.x) * kAcross + across < dv)
        prefetch_line(block + int64_t{i / kTogether} * dv + across);
    }
  }
  __device__ void load(int d0) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int d = d0 + first + i * kAtOnce;
      if (d < dk && column < dv) held[i].read(c + d * dv);
    }
  }
  template <class T>
  __device__ Neighbours<kVec> values(const MlstmCall& call, int64_t row, int64_t h) const {
    Neighbours<kVec> v = {};
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      if (column < dv) v.of[j] = static_cast<float>(call.v_row<T>(row, h)[column + j]);
    }
    return v;
  }
  /// Advances C, of which load(0) has been called, and leaves the block's q C in `shares`; a barrier has to follow.
  __device__ void run(const float* k, const float* q, const Neighbours<kVec>& i_v, float f_act,
                      float (*shares)[kAcross]) {
    const int thread = static_cast<int>(threadIdx.x);
    Neighbours<kVec> share = {};
    for (int d0 = 0; d0 < dk; d0 += kHeld * kAtOnce) {
      if (d0 > 0) load(d0);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int d = d0 + first + i * kAtOnce;
        if (d >= dk || column >= dv) continue;
#pragma unroll
        for (int j = 0; j < kVec; ++j) {
          held[i].of[j] = fmaf(k[d], i_v.of[j], f_act * held[i].of[j]);
          share.of[j] = fmaf(q[d], held[i].of[j], share.of[j]);
        }
        held[i].write(c + d * dv);
      }
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      for (int distance = kLanes; distance < kWarp; distance *= 2) {
        share.of[j] += __shfl_xor_sync(kAllLanes, share.of[j], distance);
      }
      if (thread % kWarp < kLanes) shares[thread / kWarp][thread % kLanes * kVec + j] = share.of[j];
    }
  }
  /// h of the block's columns, after that barrier.
  template <class T>
  __device__ void write_out(const MlstmCall& call, int64_t row, int64_t h, float (*shares)[kAcross],
                            float denominator) const {
    const int thread = static_cast<int>(threadIdx.x), out_column = static_cast<int>(blockIdx.x) * kAcross + thread;
    if (thread >= kAcross || out_column >= dv) return;
    float sum = 0;
    for (int w = 0; w < kWarps; w += kTogether) {
      sum += kTogether == 1 ? shares[w][thread] : shares[w][thread] + shares[w + kTogether - 1][thread];
    }
    call.out_row<T>(row, h)[out_column] = static_cast<T>(call.scale_q() * sum / denominator);
  }
};

/// A block per 32 value columns of a head, and a warp more. All blocks of a head read its n and m; the block that has
/// done so last replaces them, by that warp, which alone waits for the count. What a block reads waits as little as may
/// be for what it reads before: its life is a few latencies of memory, and the first rows of C are on their way while
/// the denominator is formed.
template <class T, int kVec>
__global__ void __launch_bounds__(kStepThreads + kWarp, kStepBlocks) step(MlstmCall call, StepOf which) {
  using Pass = StatePass<kVec>;
  extern __shared__ float keys_queries[];
  __shared__ float shared[kWarp], shares[Pass::kWarps][kColumns];
  const int64_t h = blockIdx.y, s = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  const bool counts = thread >= kStepThreads;
  Pass pass(call, s, h);
  const int dk = pass.dk;
  float* const n = call.n_of(s, h);
  await_inputs();
  if (!counts) pass.load(0);
  const int64_t row = call.one_row_each ? s : step_row(call.sequence(s), which);
  if (row < 0) return;
  const T *const q_row = call.q_row<T>(row, h), *const k_row = call.k_row<T>(row, h);
  T first_k{}, first_q{};
  float first_n = 0;
  if (thread < dk && !counts) first_k = k_row[thread], first_q = q_row[thread], first_n = n[thread];
  Neighbours<kVec> i_v = pass.template values<T>(call, row, h);
  const StepWeights weights = StepWeights::of(call, row, s, h);
  float *const k = keys_queries, *const q = k + dk;
  float dot = 0;
  for (int d = counts ? dk : thread; d < dk; d += kStepThreads) {
    k[d] = static_cast<float>(d == thread ? first_k : k_row[d]);
    q[d] = static_cast<float>(d == thread ? first_q : q_row[d]);
    dot = fmaf(q[d], weights.next_n(call, k[d], d == thread ? first_n : n[d]), dot);
  }
  const float q_n = sum_of_warps(dot, shared, 0, Pass::kWarps + 1);  // every thread has read n and m
  if (counts) {
    int arrived = 0;
    if (thread == kStepThreads) {
      __threadfence();  // no read passes the count
      arrived = atomicAdd(call.arrived + s * call.args.dims.heads + h, 1);
    }
    if (__shfl_sync(kAllLanes, arrived, 0) + 1 < static_cast<int>(gridDim.x)) return;
    for (int d = thread - kStepThreads; d < dk; d += kWarp) n[d] = weights.next_n(call, k[d], n[d]);
    if (thread > kStepThreads) return;
    *call.m_of(s, h) = weights.m;
    call.arrived[s * call.args.dims.heads + h] = 0;  // for the next step
    return;
  }
  const float denominator = call.denominator(call.scale_q() * q_n, weights.m);
  weights.weigh(call, &i_v);
  pass.run(k, q, i_v, weights.f_act, shares);
  sync_first<kStepThreads>();
  pass.template write_out<T>(call, row, h, shares, denominator);
}

/// The same step in two kernels, for more blocks than the GPU runs at a time: what all blocks of a head would do first
/// is done once. This one takes a block per head, and advances n and m.
template <class T>
__global__ void __launch_bounds__(kStepThreads) step_of_n(MlstmCall call, StepOf which) {
  __shared__ float shared[kWarp];
  const int64_t h = blockIdx.x, s = blockIdx.y, head = s * call.args.dims.heads + h;
  await_inputs();
  const int64_t row = call.one_row_each ? s : step_row(call.sequence(s), which);
  if (row < 0) return;
  float* const n = call.n_of(s, h);
  const T *const q = call.q_row<T>(row, h), *const k = call.k_row<T>(row, h);
  const StepWeights weights = StepWeights::of(call, row, s, h);
  float dot = 0;
  for (int64_t d = threadIdx.x; d < call.args.dims.dk; d += kStepThreads) {
    n[d] = weights.next_n(call, static_cast<float>(k[d]), n[d]);
    dot = fmaf(static_cast<float>(q[d]), n[d], dot);
  }
  const float denominator = call.denominator(call.scale_q() * block_sum(dot, shared), weights.m);
  if (threadIdx.x > 0) return;  // every thread has read m: block_sum waited
  *call.m_of(s, h) = weights.m;
  call.of_heads[head] = make_float4(weights.m, weights.f_act, weights.i_act, denominator);
}

/// And this one a block per kAcross value columns of a head.
template <class T, int kVec, int kAcross>
__global__ void __launch_bounds__(StatePass<kVec, kAcross>::kThreads, 4 * kColumns / kAcross)
    step_of_c(MlstmCall call, StepOf which) {
  using Pass = StatePass<kVec, kAcross>;
  extern __shared__ float keys_queries[];
  __shared__ float shares[Pass::kWarps][kAcross];
  const int64_t h = blockIdx.y, s = blockIdx.z;
  Pass pass(call, s, h);
  await_inputs();
  pass.load(0);
  const int64_t row = call.one_row_each ? s : step_row(call.sequence(s), which);
  if (row < 0) return;
  float *const k = keys_queries, *const q = k + pass.dk;
  for (int d = static_cast<int>(threadIdx.x); d < pass.dk; d += Pass::kThreads) {
    k[d] = static_cast<float>(call.k_row<T>(row, h)[d]);
    q[d] = static_cast<float>(call.q_row<T>(row, h)[d]);
  }
  Neighbours<kVec> i_v = pass.template values<T>(call, row, h);
  const float4 head = call.of_heads[s * call.args.dims.heads + h];
  const StepWeights weights = {{head.x, head.y, head.z}};
  __syncthreads();
  weights.weigh(call, &i_v);
  pass.run(k, q, i_v, weights.f_act, shares);
  __syncthreads();
  pass.template write_out<T>(call, row, h, shares, head.w);
}

/// A block per row: columns of one type to columns of another.
template <class From, class To>
__global__ void convert_rows(View from, View to, int64_t columns) {
  const From* const from_n = static_cast<const From*>(from.data) + int64_t{blockIdx.x} * from.stride;
  To* const to_n = static_cast<To*>(to.data) + int64_t{blockIdx.x} * to.stride;
  for (int64_t j = threadIdx.x; j < columns; j += blockDim.x) to_n[j] = static_cast<To>(static_cast<float>(from_n[j]));
}

/// What a call has to run.
struct Work {
  bool first_steps = false, last_steps = false;
  int64_t pieces = 0;  // most of one sequence

  bool steps() const { return first_steps || last_steps; }
};
Work work_of(const SeqsView& seqs) {
  Work work;
  for (int64_t s = 0; s < seqs.batch; ++s) {
    const SequenceRows seq = {seqs.first_row(s), seqs.length(s), seqs.pos[s]};
    work.first_steps = work.first_steps || seq.first_is_step();
    work.last_steps = work.last_steps || seq.last_is_step();
    work.pieces = std::max(work.pieces, seq.pieces());
  }
  return work;
}

/// A call, and the zero states that it begins with where the caller has none.
struct Layout {
  MlstmCall call;
  int64_t zero_floats;  // from call.zero_c on
};

/// `rows`: those that the f32 kernels walk.
Layout lay_out(const ops::MlstmArgs& args, int64_t rows, bool zeros, cpu::Workspace* workspace) {
  const int64_t batch = args.seqs.batch, heads = args.dims.heads, of_n = heads * args.dims.dk;
  Layout layout = {};
  MlstmCall& call = layout.call;
  call.args = args;
  if (zeros) {
    layout.zero_floats = batch * (of_n * args.dims.dv + of_n + heads);
    call.zero_c = workspace->take<float>(layout.zero_floats);
    call.zero_n = call.zero_c + batch * of_n * args.dims.dv;
    call.zero_m = call.zero_n + batch * of_n;
  }
  for (float** const array : {&call.t_hi, &call.t_lo, &call.u_hi, &call.u_lo, &call.m, &call.carry, &call.keep,
                              &call.total, &call.denominators}) {
    *array = workspace->take<float>(rows * heads);
  }
  call.weights = workspace->take<float>(rows * heads * kChunk);
  call.of_heads = workspace->take<float4>(batch * heads);
  return layout;
}
Layout lay_out_f32(const ops::MlstmArgs& args, const Work& work, cpu::Workspace* workspace) {
  return lay_out(args, work.pieces > 0 ? args.seqs.rows() : 0, args.c == nullptr, workspace);
}
/// With tensor cores zero states are only needed to hand them from steps to chunks and back.
Layout lay_out_mixed(const ops::MlstmArgs& args, const Work& work, TensorCall* tensor, cpu::Workspace* workspace) {
  const Layout layout = lay_out(args, 0, args.c == nullptr && work.steps(), workspace);
  *tensor = lay_out_tensor(args, workspace);
  tensor->cell = layout.call;
  return layout;
}

/// The same call in f32, where q, k, v and h are bf16: the f32 kernels read and write nothing else.
ops::MlstmArgs lay_out_widened(const ops::MlstmArgs& args, cpu::Workspace* workspace) {
  const int64_t rows = args.seqs.rows(), of_q = args.dims.heads * args.dims.dk, of_v = args.dims.heads * args.dims.dv;
  ops::MlstmArgs widened = args;
  widened.q = {workspace->take<float>(rows * of_q), of_q};
  widened.k = {workspace->take<float>(rows * of_q), of_q};
  widened.v = {workspace->take<float>(rows * of_v), of_v};
  widened.out = {workspace->take<float>(rows * of_v), of_v};
  return widened;
}

template <class From, class To>
void convert(const Gpu::Impl& gpu, const View& from, const View& to, int64_t rows, int64_t columns) {
  convert_rows<From, To><<<static_cast<unsigned>(rows), 256, 0, gpu.queue()>>>(from, to, columns);
  launched("mlstm");
}

/// q and k of a head, which a block of a step has in shared memory beside what it declares.
size_t step_bytes(const ops::MlstmDims& dims) { return 2 * static_cast<size_t>(dims.dk) * sizeof(float); }
constexpr size_t kStepStaticBytes = size_t{8} << 10;  // at most

template <class T, int kVec>
void run_step(const Gpu::Impl& gpu, const MlstmCall& call, StepOf which) {
  const ops::MlstmDims& dims = call.args.dims;
  const size_t bytes = step_bytes(dims);
  allow_shared(step<T, kVec>, bytes);
  const dim3 grid(static_cast<unsigned>(blocks_of(dims.dv, kColumns)), static_cast<unsigned>(dims.heads),
                  static_cast<unsigned>(call.args.seqs.batch));
  if (int64_t{grid.x} * grid.y * grid.z <= int64_t{gpu.multiprocessors} * kStepBlocks) {
    launch_early(gpu, step<T, kVec>, grid, kStepThreads + kWarp, bytes, call, which);
  } else {
    constexpr int kAcross = kVec == 4 ? 2 * kColumns : kColumns;  // longer rows of C at a time are faster
    const dim3 of_c(static_cast<unsigned>(blocks_of(dims.dv, kAcross)), grid.y, grid.z);
    allow_shared(step_of_c<T, kVec, kAcross>, bytes);
    launch_early(gpu, step_of_n<T>, dim3(grid.y, grid.z), kStepThreads, 0, call, which);
    launch_early(gpu, step_of_c<T, kVec, kAcross>, of_c, StatePass<kVec, kAcross>::kThreads, bytes, call, which);
  }
  const int64_t out_bytes = call.args.seqs.rows() * call.args.out.stride * static_cast<int64_t>(sizeof(T));
  gpu.wrote({{call.args.out.data, static_cast<size_t>(out_bytes)}});  // and states
  launched("mlstm");
}
/// Fours of value columns, where rows of C are made of them.
template <class T>
void run_steps(const Gpu::Impl& gpu, const MlstmCall& call, StepOf which) {
  call.args.dims.dv % 4 == 0 ? run_step<T, 4>(gpu, call, which) : run_step<T, 1>(gpu, call, which);
}
void run_steps(const Gpu::Impl& gpu, const MlstmCall& call, StepOf which) {
  call.args.q.dtype == DType::kBF16 ? run_steps<__nv_bfloat16>(gpu, call, which) : run_steps<float>(gpu, call, which);
}

void run_chunks(const Gpu::Impl& gpu, const MlstmCall& call, int64_t pieces) {
  const ops::MlstmDims& dims = call.args.dims;
  const auto heads = static_cast<unsigned>(dims.heads), batch = static_cast<unsigned>(call.args.seqs.batch);
  const size_t bytes = walk_bytes(dims.dk);
  allow_shared(walk_values, bytes);
  chunk_gates<<<dim3(heads, batch), kWarp, 0, gpu.queue()>>>(call);
  chunk_weights<<<dim3(static_cast<unsigned>(pieces), heads, batch), kWalkThreads, 0, gpu.queue()>>>(call);
  const size_t n_bytes = static_cast<size_t>(dims.dk) * sizeof(float);
  walk_denominators<<<dim3(heads, batch), kWalkThreads, n_bytes, gpu.queue()>>>(call);
  const dim3 grid(static_cast<unsigned>(blocks_of(dims.dv, kColumns)), heads, batch);
  walk_values<<<grid, kWalkThreads, bytes, gpu.queue()>>>(call);
  launched("mlstm");
}

/// Steps, chunks, steps, in the order of a sequence's rows.
template <class F>
void run_in_order(const Stream& stream, const Layout& layout, const Work& work, const F& run_pieces) {
  const Gpu::Impl& gpu = gpu_of(stream);
  if (layout.zero_floats > 0) {
    stream.memory->zero(reinterpret_cast<std::byte*>(layout.call.zero_c),
                        static_cast<size_t>(layout.zero_floats) * sizeof(float));
  }
  MlstmCall steps = layout.call;
  steps.arrived = gpu.arrived;
  steps.one_row_each = one_row_each(steps.args.seqs);
  if (work.first_steps) run_steps(gpu, steps, StepOf::kFirst);
  if (work.pieces > 0) run_pieces(gpu);
  if (work.last_steps) run_steps(gpu, steps, StepOf::kLast);
}

void run_f32(const Stream& stream, const ops::MlstmArgs& args, const Work& work, cpu::Workspace workspace) {
  const Layout layout = lay_out_f32(args, work, &workspace);
  run_in_order(stream, layout, work, [&](const Gpu::Impl& gpu) { run_chunks(gpu, layout.call, work.pieces); });
}

void run_widened(const Stream& stream, const ops::MlstmArgs& args, const Work& work, cpu::Workspace workspace) {
  const Gpu::Impl& gpu = gpu_of(stream);
  const ops::MlstmArgs widened = lay_out_widened(args, &workspace);
  const int64_t rows = args.seqs.rows(), of_q = widened.q.stride, of_v = widened.v.stride;
  convert<__nv_bfloat16, float>(gpu, args.q, widened.q, rows, of_q);
  convert<__nv_bfloat16, float>(gpu, args.k, widened.k, rows, of_q);
  convert<__nv_bfloat16, float>(gpu, args.v, widened.v, rows, of_v);
  run_f32(stream, widened, work, workspace);
  convert<float, __nv_bfloat16>(gpu, widened.out, args.out, rows, of_v);
}

}  // namespace

/// Room for either way through the chunks: which one runs is known on the GPU alone, and this also counts for meta.
int64_t mlstm_workspace(const Stream& stream, const ops::MlstmArgs& args) {
  const Work work = work_of(args.seqs);
  const size_t walked = work.pieces > 0 ? walk_bytes(args.dims.dk) : 0;
  check_shared(stream, std::max(step_bytes(args.dims) + kStepStaticBytes, walked), "mlstm with heads this wide");
  cpu::Workspace f32, mixed;
  const bool narrow = args.q.dtype == DType::kBF16;
  lay_out_f32(narrow ? lay_out_widened(args, &f32) : args, work, &f32);
  if (work.pieces == 0 || !suits_tensor_cores(stream, args)) return f32.bytes();
  TensorCall tensor;
  lay_out_mixed(args, work, &tensor, &mixed);
  return std::max(f32.bytes(), mixed.bytes());
}

void mlstm(const Stream& stream, const ops::MlstmArgs& args) {
  if (args.kept.m != nullptr) not_on_device("mlstm under a tape");
  const Work work = work_of(args.seqs);
  const Gpu::Impl& gpu = gpu_of(stream);
  cpu::Workspace workspace(args.workspace);
  if (work.pieces > 0 && gpu.runs(Fast::kMlstm) && gpu.is_hopper && suits_tensor_cores(stream, args)) {
    TensorCall tensor;
    const Layout layout = lay_out_mixed(args, work, &tensor, &workspace);
    return run_in_order(stream, layout, work, [&](const Gpu::Impl&) { run_tensor_chunks(gpu, tensor, work.pieces); });
  }
  const bool narrow = args.q.dtype == DType::kBF16;
  narrow&& work.pieces > 0 ? run_widened(stream, args, work, workspace) : run_f32(stream, args, work, workspace);
}

}  // namespace carousel::cuda
