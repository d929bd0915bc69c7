// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell on the GPU: its steps (arXiv:2405.04517, sec. 2.3), and the launches of a call. Steps take two
// kernels. step_gates replaces m and n of every head and has its denominator; step_values then passes once over C, a
// block per 32 value columns.
#include <algorithm>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/mlstm/mlstm_chunk_cuda.cuh"
#include "carousel/ops/mlstm/mlstm_tensor_cuda.cuh"

namespace carousel::cuda {
namespace {

/// Which of a sequence's pieces of one row.
enum class StepOf : uint8_t { kFirst, kLast };

/// The row of the batch that is this step of the sequence; -1: it has none.
__device__ int64_t step_row(const SequenceRows& seq, StepOf which) {
  if (which == StepOf::kFirst) return seq.first_is_step() ? seq.first : -1;
  return seq.last_is_step() ? seq.first + seq.rows - 1 : -1;
}

template <class T>
__global__ void step_gates(MlstmCall call, StepOf which) {
  __shared__ float shared[kWarp];
  const int64_t h = blockIdx.x, s = blockIdx.y, row = step_row(call.sequence(s), which);
  if (row < 0) return;
  const float i = call.input_gate(row, h), decayed = call.log_forget_gate(row, h) + *call.m_of(s, h);
  const float m = fmaxf(decayed, i), f_act = expf(decayed - m), i_act = expf(i - m);
  const T *const q = call.q_row<T>(row, h), *const k = call.k_row<T>(row, h);
  const float scale = call.scale_k();
  float* const n = call.n_of(s, h);
  float dot = 0;
  for (int64_t d = threadIdx.x; d < call.args.dims.dk; d += blockDim.x) {
    n[d] = fmaf(i_act, scale * static_cast<float>(k[d]), f_act * n[d]);
    dot = fmaf(static_cast<float>(q[d]), n[d], dot);
  }
  dot = call.scale_q() * block_sum(dot, shared);  // and every thread has read m
  if (threadIdx.x > 0) return;
  *call.m_of(s, h) = m;
  const int64_t at = s * call.args.dims.heads + h;
  call.step_f[at] = f_act;
  call.step_i[at] = i_act;
  call.step_denominator[at] = call.denominator(dot, m);
}

template <class T>
__global__ void __launch_bounds__(kWalkThreads) step_values(MlstmCall call, StepOf which) {
  constexpr int kWarps = kWalkThreads / kWarp;
  __shared__ float shares[kWarps][kColumns];
  const int64_t h = blockIdx.y, s = blockIdx.z, row = step_row(call.sequence(s), which);
  if (row < 0) return;
  const int64_t dk = call.args.dims.dk, dv = call.args.dims.dv, at = s * call.args.dims.heads + h;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.x} * kColumns + lane;
  float share = 0;
  if (column < dv) {
    const float v = static_cast<float>(call.v_row<T>(row, h)[column]);
    const float f_act = call.step_f[at], i_v = call.step_i[at] * call.scale_k() * v;
    const T *const q = call.q_row<T>(row, h), *const k = call.k_row<T>(row, h);
    float* const c = call.c_of(s, h) + column;
#pragma unroll 8
    for (int64_t d = warp; d < dk; d += kWarps) {
      const float updated = fmaf(static_cast<float>(k[d]), i_v, f_act * c[d * dv]);
      c[d * dv] = updated;
      share = fmaf(static_cast<float>(q[d]), updated, share);
    }
  }
  shares[warp][lane] = share;
  __syncthreads();
  if (warp > 0 || column >= dv) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += shares[w][lane];
  call.out_row<T>(row, h)[column] = static_cast<T>(call.scale_q() * sum / call.step_denominator[at]);
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
  for (float** const array : {&call.step_f, &call.step_i, &call.step_denominator}) {
    *array = workspace->take<float>(batch * heads);
  }
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

template <class T>
void run_steps(const Gpu::Impl& gpu, const MlstmCall& call, StepOf which) {
  const ops::MlstmDims& dims = call.args.dims;
  const auto heads = static_cast<unsigned>(dims.heads), batch = static_cast<unsigned>(call.args.seqs.batch);
  step_gates<T><<<dim3(heads, batch), 128, 0, gpu.queue()>>>(call, which);
  const dim3 grid(static_cast<unsigned>(blocks_of(dims.dv, kColumns)), heads, batch);
  step_values<T><<<grid, kWalkThreads, 0, gpu.queue()>>>(call, which);
  launched("mlstm");
}
void run_steps(const Gpu::Impl& gpu, const MlstmCall& call, StepOf which) {
  call.args.q.dtype == DType::kBF16 ? run_steps<__nv_bfloat16>(gpu, call, which) : run_steps<float>(gpu, call, which);
}

void run_chunks(const Gpu::Impl& gpu, const MlstmCall& call, int64_t pieces) {
  const ops::MlstmDims& dims = call.args.dims;
  const auto heads = static_cast<unsigned>(dims.heads), batch = static_cast<unsigned>(call.args.seqs.batch);
  const size_t bytes = walk_bytes(dims.dk);
  if (bytes > gpu.shared_bytes) not_on_device("mlstm with heads this wide");
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
  if (work.first_steps) run_steps(gpu, layout.call, StepOf::kFirst);
  if (work.pieces > 0) run_pieces(gpu);
  if (work.last_steps) run_steps(gpu, layout.call, StepOf::kLast);
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
