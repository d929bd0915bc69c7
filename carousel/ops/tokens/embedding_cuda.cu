// SPDX-License-Identifier: Apache-2.0
// The look-up on the GPU: a block per token.
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/tokens/embedding_cpu.h"
#include "carousel/ops/weight/elements_cuda.cuh"

namespace carousel::cuda {
namespace {

template <class T>
__global__ void look_up(const int32_t* tokens, const T* table, View x, int64_t width) {
  const T* const from = table + tokens[blockIdx.x] * width;
  float* const to = static_cast<float*>(x.data) + blockIdx.x * x.stride;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) to[j] = widened(from[j]);
}

}  // namespace

void embedding(const Stream& stream, const ops::EmbeddingArgs& args) {
  const void* const table = float_rows(*args.table, "embedding of such a table");
  for_element(args.table->dtype(), [&]<class T>(T) {
    look_up<<<static_cast<unsigned>(args.rows), 256, 0, queue_of(stream)>>>(args.tokens, static_cast<const T*>(table),
                                                                            args.x, args.width);
  });
  launched("embedding");
}

}  // namespace carousel::cuda
