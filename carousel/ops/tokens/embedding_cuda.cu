// SPDX-License-Identifier: Apache-2.0
// The look-up on the GPU: a block per token.
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/tokens/embedding_cpu.h"
#include "carousel/ops/weight/elements_cuda.cuh"

namespace carousel::cuda {
namespace {

template <class T>
__global__ void look_up(const int32_t* tokens, const char* table, View x, int64_t width) {
  const char* const from = table + tokens[blockIdx.x] * Row<T>::bytes(width);
  float* const to = static_cast<float*>(x.data) + blockIdx.x * x.stride;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) to[j] = element<T>(from, width, j);
}

}  // namespace

void embedding(const Stream& stream, const ops::EmbeddingArgs& args) {
  const void* const table = rows_of(*args.table, "embedding of such a table");
  for_row(args.table->dtype(), [&]<class T>(T) {
    look_up<T><<<static_cast<unsigned>(args.rows), 256, 0, queue_of(stream)>>>(
        args.tokens, static_cast<const char*>(table), args.x, args.width);
  });
  launched("embedding");
}

}  // namespace carousel::cuda
