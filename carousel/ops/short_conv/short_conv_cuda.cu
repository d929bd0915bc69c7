// SPDX-License-Identifier: Apache-2.0
// The short convolution on the GPU: a thread per element of the result, or per column of some rows where there are
// many, and one per column of every state, the same where each sequence has one row, else one that follows. A gated
// input has the same bits whether it is computed or read back from the state, and both ways sum in the order of the
// taps, so neither cuts nor the number of rows change a bit.
#include "carousel/cuda/float_math.cuh"
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/gate/activations.h"
#include "carousel/ops/short_conv/short_conv_cpu.h"
#include "carousel/ops/short_conv/short_conv_formulas.h"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRows = 16;  // that a thread walks

__device__ float element(const View& view, int64_t n, int64_t j) {
  return static_cast<const float*>(view.data)[n * view.stride + j];
}

/// u of column j at time t of a sequence; times before this call are in the state.
__device__ float gated_input(const ops::ShortConvArgs& args, const BatchSequence& seq, const float* state, int64_t t,
                             int64_t j) {
  if (t < 0) return state == nullptr ? 0.0f : state[(t + args.kept) * args.width + j];
  const float x = element(args.x, seq.first_row + t, j);
  return args.b.data == nullptr ? x : element(args.b, seq.first_row + t, j) * x;
}

/// The sum of taps and inputs that a thread holds.
template <int kTaps>
__device__ float sum_held(float bias, const float (&taps)[kTaps], const float (&u)[kTaps]) {
  return ops::taps_sum<FloatMath>(
      bias, kTaps, [&](int64_t k) { return taps[k]; }, [&](int64_t k) { return u[k]; });
}

/// Replaces column j of the state in place, oldest first: row i becomes u at time T-kept+i, which is a new row or a
/// later old one.
__device__ void keep(const ops::ShortConvArgs& args, const BatchSequence& seq, float* state, int64_t j) {
  for (int64_t i = 0; i < args.kept; ++i) {
    state[i * args.width + j] = gated_input(args, seq, state, seq.rows - args.kept + i, j);
  }
}

/// Sequences have one row each, and a thread asks at once for all that its element is made of.
template <int kTaps>
__global__ void convolve_one(ops::ShortConvArgs args) {
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, n = blockIdx.x;
  if (j >= args.width) return await_inputs();
  float* const state = args.state != nullptr ? args.state[n] : nullptr;
  float taps[kTaps], u[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) taps[k] = args.taps[k * args.width + j];  // weights, which no kernel writes
  const float bias = args.bias != nullptr ? args.bias[j] : 0.0f;
  await_inputs();
  float* const kept = state == nullptr ? nullptr : state + (args.kept - kTaps + 1) * args.width + j;
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k) u[k] = kept != nullptr ? kept[k * args.width] : 0.0f;
  const float x = element(args.x, n, j), b = args.b.data != nullptr ? element(args.b, n, j) : 1.0f;
  const float c = args.c.data != nullptr ? element(args.c, n, j) : 1.0f;
  u[kTaps - 1] = args.b.data == nullptr ? x : b * x;
  float sum = sum_held(bias, taps, u);
  if (args.silu) sum = ops::silu<FloatMath>(sum);
  if (args.c.data != nullptr) sum *= c;
  static_cast<float*>(args.out.data)[n * args.out.stride + j] = sum;
#pragma unroll
  for (int k = 0; k + 1 < kTaps && kept != nullptr; ++k) kept[k * args.width] = u[k + 1];
  if (kept != nullptr && args.kept == kTaps) state[j] = u[0];
}

/// Where a sequence has one row, the thread of a column also keeps it.
__global__ void convolve(ops::ShortConvArgs args) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, n = blockIdx.x, batch = args.seqs.batch;
  if (j >= args.width) return;
  const int64_t s = sequence_of_row(args.seqs.there, batch, n);
  const BatchSequence seq = sequence_at(args.seqs.there, batch, s);
  const float* const state = args.state != nullptr ? args.state[s] : nullptr;
  const int64_t first = n - seq.first_row - (args.taps_count - 1);
  float sum = ops::taps_sum<FloatMath>(
      args.bias != nullptr ? args.bias[j] : 0.0f, args.taps_count,
      [&](int64_t k) { return args.taps[k * args.width + j]; },
      [&](int64_t k) { return gated_input(args, seq, state, first + k, j); });
  if (args.silu) sum = ops::silu<FloatMath>(sum);
  if (args.c.data != nullptr) sum *= element(args.c, n, j);
  static_cast<float*>(args.out.data)[n * args.out.stride + j] = sum;
  if (seq.rows == 1 && args.state != nullptr) keep(args, seq, args.state[s], j);
}

constexpr int kAhead = 8;  // rows whose elements are on their way together

/// Column j of the rows from n on, those before `end`.
__device__ void read_rows(const View& view, int64_t n, int64_t end, int64_t j, float (&out)[kAhead]) {
#pragma unroll
  for (int i = 0; i < kAhead; ++i) out[i] = n + i < end ? element(view, n + i, j) : 0.0f;
}

/// A thread walks kRows rows of the batch with the last kTaps inputs of its column in registers, so each is read once.
template <int kTaps>
__global__ void convolve_rows(ops::ShortConvArgs args) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, batch = args.seqs.batch, first = blockIdx.x * kRows;
  if (j >= args.width) return;
  const int64_t last = min(first + kRows, args.seqs.there[batch]);
  float taps[kTaps], u[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) taps[k] = args.taps[k * args.width + j];
  const float bias = args.bias != nullptr ? args.bias[j] : 0.0f;
  float* const out = static_cast<float*>(args.out.data) + j;
  int64_t n = first;
  for (int64_t s = sequence_of_row(args.seqs.there, batch, first); n < last; ++s) {
    const BatchSequence seq = sequence_at(args.seqs.there, batch, s);
    const int64_t end = min(last, seq.first_row + seq.rows);
    if (n >= end) continue;  // an empty sequence
    const float* const state = args.state != nullptr ? args.state[s] : nullptr;
#pragma unroll
    for (int k = 1; k < kTaps; ++k) u[k] = gated_input(args, seq, state, n - seq.first_row - kTaps + k, j);
    for (; n < end; n += kAhead) {
      float x[kAhead], b[kAhead], c[kAhead];
      read_rows(args.x, n, end, j, x);
      if (args.b.data != nullptr) read_rows(args.b, n, end, j, b);
      if (args.c.data != nullptr) read_rows(args.c, n, end, j, c);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (n + i >= end) break;
#pragma unroll
        for (int k = 0; k + 1 < kTaps; ++k) u[k] = u[k + 1];
        u[kTaps - 1] = args.b.data == nullptr ? x[i] : b[i] * x[i];
        float sum = sum_held(bias, taps, u);
        if (args.silu) sum = ops::silu<FloatMath>(sum);
        if (args.c.data != nullptr) sum *= c[i];
        out[(n + i) * args.out.stride] = sum;
      }
    }
    n = end;
  }
}
using Kernel = void (*)(ops::ShortConvArgs);
/// Null where rows are not walked: for so many taps, and where few rows are better spread over threads.
Kernel walk_of(const ops::ShortConvArgs& args) {
  constexpr int64_t kFew = 512;
  if (args.seqs.rows() < kFew || args.seqs.rows() <= args.seqs.batch) return nullptr;
  if (args.taps_count == 2) return convolve_rows<2>;
  if (args.taps_count == 3) return convolve_rows<3>;
  if (args.taps_count == 4) return convolve_rows<4>;
  return nullptr;
}
/// The kernel that has a thread per element.
Kernel convolve_of(const ops::ShortConvArgs& args) {
  if (!one_row_each(args.seqs)) return convolve;
  if (args.taps_count == 2) return convolve_one<2>;
  if (args.taps_count == 3) return convolve_one<3>;
  if (args.taps_count == 4) return convolve_one<4>;
  return convolve;
}

/// For sequences of more than one row, and after a walk for all.
__global__ void keep_last_inputs(ops::ShortConvArgs args, int64_t least_rows) {
  await_inputs();
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, s = blockIdx.x;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  if (j < args.width && seq.rows >= least_rows) keep(args, seq, args.state[s], j);
}

}  // namespace

void short_conv(const Stream& stream, const ops::ShortConvArgs& args) {
  if (args.dtype != DType::kF32 || args.gates != DType::kF32) not_on_device("short_conv, rounded");
  const auto columns = static_cast<unsigned>(blocks_of(args.width, kThreads));
  const Gpu::Impl& gpu = gpu_of(stream);
  const Kernel walk = walk_of(args);
  const int64_t blocks = walk != nullptr ? blocks_of(args.seqs.rows(), kRows) : args.seqs.rows();
  launch_early(gpu, walk != nullptr ? walk : convolve_of(args), dim3(static_cast<unsigned>(blocks), columns), kThreads,
               0, args);
  bool any_longer = false;
  for (int64_t s = 0; s < args.seqs.batch; ++s) any_longer = any_longer || args.seqs.length(s) > 1;
  if (args.state == nullptr || !any_longer) return;
  launch_early(gpu, keep_last_inputs, dim3(static_cast<unsigned>(args.seqs.batch), columns), kThreads, 0, args,
               walk != nullptr ? 1 : 2);
}

}  // namespace carousel::cuda
