// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood on the GPU, a block per row: the row's maximum, then the exponentials below it, in f32,
// summed in f64.
#include <cmath>

#include "carousel/cuda/launch.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/tokens/cross_entropy_cpu.h"

namespace carousel::cuda {
namespace {

__global__ void nll_of_rows(ops::CrossEntropyArgs args) {
  __shared__ float of_max[kWarp];
  __shared__ double of_sum[kWarp];
  const int64_t n = blockIdx.x;
  const float* const logits = static_cast<const float*>(args.logits.data) + n * args.logits.stride;  // [V]
  float best = -INFINITY;
  for (int64_t j = threadIdx.x; j < args.vocab; j += blockDim.x) best = fmaxf(best, logits[j]);
  best = block_max(best, of_max);
  double total = 0;
  for (int64_t j = threadIdx.x; j < args.vocab; j += blockDim.x) total += double{expf(logits[j] - best)};
  total = block_sum(total, of_sum);
  if (threadIdx.x > 0) return;
  const double nll = log(total) + (double{best} - double{logits[args.targets[n]]});
  static_cast<float*>(args.nll.data)[n] = static_cast<float>(nll);
}

}  // namespace

void cross_entropy(const Stream& stream, const ops::CrossEntropyArgs& args) {
  nll_of_rows<<<static_cast<unsigned>(args.rows), 256, 0, queue_of(stream)>>>(args);
  launched("cross_entropy");
}

}  // namespace carousel::cuda
