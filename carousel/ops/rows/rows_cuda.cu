// SPDX-License-Identifier: Apache-2.0
// Rows copied whole on the GPU. Which rows, the host says; their numbers go along with the launch.
#include <algorithm>

#include "carousel/cuda/launch.cuh"
#include "carousel/ops/rows/rows_cpu.h"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRowsOfLaunch = 256;  // their numbers fit in the arguments of a kernel

struct RowNumbers {
  int64_t from[kRowsOfLaunch];
};

__global__ void gather(View x, View out, RowNumbers rows, int64_t first, int64_t width) {
  const auto* const from = static_cast<const float*>(x.data) + rows.from[blockIdx.x] * x.stride;
  float* const to = static_cast<float*>(out.data) + (first + blockIdx.x) * out.stride;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) to[j] = from[j];
}

__global__ void copy(View x, View out, int64_t width) {
  const auto* const from = static_cast<const float*>(x.data) + blockIdx.x * x.stride;
  float* const to = static_cast<float*>(out.data) + blockIdx.x * out.stride;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) to[j] = from[j];
}

}  // namespace

void gather_rows(const Stream& stream, const ops::GatherRowsArgs& args) {
  for (int64_t first = 0; first < args.count; first += kRowsOfLaunch) {
    const int64_t count = std::min(kRowsOfLaunch, args.count - first);
    RowNumbers rows = {};
    std::copy_n(args.rows + first, count, rows.from);
    gather<<<static_cast<unsigned>(count), kThreads, 0, queue_of(stream)>>>(args.x, args.out, rows, first, args.width);
    launched("gather_rows");
  }
}

void copy_columns(const Stream& stream, const ops::CopyColumnsArgs& args) {
  copy<<<static_cast<unsigned>(args.rows), kThreads, 0, queue_of(stream)>>>(args.x, args.out, args.width);
  launched("copy_columns");
}

}  // namespace carousel::cuda
