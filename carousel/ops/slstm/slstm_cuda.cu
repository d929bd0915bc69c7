// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence on the GPU: in clusters of blocks where slstm_cluster_cuda.cuh takes the heads, else a block per
// head of a sequence, which takes its steps with y, c, n and m in shared memory. A warp multiplies pieces of the
// panels, which the second level of cache keeps; then a thread has all four sums of an element and advances it. No sum
// depends on the batch.
#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/slstm/slstm_cluster_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kPiece = static_cast<int>(ops::kSlstmPiece);
static_assert(kPiece == kWarp);

/// Elements between steps, in shared memory.
struct Cells {
  float *y, *c, *n, *m;  // [dh] each
  float* sums;           // [2 * panels, 32] as the panels' pieces lie
};

/// sums = R y, all pieces of the head's panels [2 * panels, dh, 32].
__device__ void multiply(const float* panels, int64_t pieces, int64_t dh, const Cells& cells) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  for (int64_t piece = threadIdx.x / kWarp; piece < pieces; piece += warps) {
    const float* const weights = panels + piece * dh * kPiece + lane;
    float sum = 0;
#pragma unroll 16
    for (int64_t k = 0; k < dh; ++k) sum = fmaf(weights[k * kPiece], cells.y[k], sum);
    cells.sums[piece * kPiece + lane] = sum;
  }
}

constexpr int kMostThreads = 1024;

/// `pieces` of the panels of one head. The bound keeps the registers of a thread few enough for so many threads:
/// without it a launch may be refused.
__global__ void __launch_bounds__(kMostThreads) recur(ops::SlstmArgs args, int64_t pieces) {
  extern __shared__ float shared[];
  const int64_t h = blockIdx.x, s = blockIdx.y, dh = args.dims.dh, width = args.dims.heads * dh;
  const BatchSequence seq = sequence_at(args.seqs.there, args.seqs.batch, s);
  if (seq.rows == 0) return;
  const Cells cells = {shared, shared + dh, shared + 2 * dh, shared + 3 * dh, shared + 4 * dh};
  float* const* const tables[] = {args.y, args.c, args.n, args.m};
  for (int64_t j = threadIdx.x; j < 4 * dh; j += blockDim.x) {
    float* const* const table = tables[j / dh];
    shared[j] = table != nullptr ? table[s][h * dh + j % dh] : 0.0f;
  }
  __syncthreads();
  const float* const panels = args.panels + h * pieces * dh * kPiece;
  for (int64_t row = seq.first_row; row < seq.first_row + seq.rows; ++row) {
    multiply(panels, pieces, dh, cells);
    __syncthreads();
    const float* const wx = static_cast<const float*>(args.wx.data) + row * args.wx.stride + h * dh;
    float* const out = static_cast<float*>(args.out.data) + row * args.out.stride + h * dh;
    for (int64_t j = threadIdx.x; j < dh; j += blockDim.x) {
      float raw[4];
      for (int64_t g = 0; g < 4; ++g) {
        const int64_t piece = j / ops::kSlstmElements * 2 + g / 2;
        const int64_t at = g % 2 * ops::kSlstmElements + j % ops::kSlstmElements;
        raw[g] = wx[g * width + j] + cells.sums[piece * kPiece + at];
      }
      Element element = {cells.y[j], cells.c[j], cells.n[j], cells.m[j]};
      element.advance(raw, args.dims.f_gate_max);
      out[j] = cells.y[j] = element.y;
      cells.c[j] = element.c;
      cells.n[j] = element.n;
      cells.m[j] = element.m;
    }
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < 4 * dh; j += blockDim.x) {
    float* const* const table = tables[j / dh];
    if (table != nullptr) table[s][h * dh + j % dh] = shared[j];
  }
}

/// y, c, n and m of a head, and a warp's pieces of sums.
size_t recur_bytes(const ops::SlstmDims& dims) {
  return static_cast<size_t>(4 * dims.dh + 2 * ops::slstm_panels(dims) * kPiece) * sizeof(float);
}

}  // namespace

int64_t slstm_workspace(const Stream& stream, const ops::SlstmArgs& args) {
  check_shared(stream, recur_bytes(args.dims), "slstm with heads this wide");
  return 0;
}

void slstm(const Stream& stream, const ops::SlstmArgs& args) {
  if (args.raw != nullptr) not_on_device("slstm under a tape");
  const Gpu::Impl& gpu = gpu_of(stream);
  if (run_in_clusters(gpu, args)) return;
  const int64_t pieces = 2 * ops::slstm_panels(args.dims), threads = pieces * kWarp;
  const size_t bytes = recur_bytes(args.dims);
  allow_shared(recur, bytes);
  const dim3 grid(static_cast<unsigned>(args.dims.heads), static_cast<unsigned>(args.seqs.batch));
  const auto block = static_cast<unsigned>(threads < kMostThreads ? threads : kMostThreads);
  recur<<<grid, block, bytes, gpu.queue()>>>(args, pieces);
  launched("slstm");
}

}  // namespace carousel::cuda
