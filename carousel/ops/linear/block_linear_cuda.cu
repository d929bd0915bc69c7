// SPDX-License-Identifier: Apache-2.0
// Block-diagonal products on the GPU: a thread per output, which is one chain over its block's inputs.
#include "carousel/cuda/launch.cuh"
#include "carousel/ops/linear/block_linear_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPanel = DensePanels::kPanelRows;

struct BlockParts {
  struct Part {
    View x;               // [rows, width]
    const float* weight;  // wide: panels [blocks, panels, size, 32]; narrow: lanes [size, width]
    const float* bias;    // [width], or null
  };
  Part list[ops::kMaxParts];
  int64_t size, width;
  bool wide;
};

__global__ void multiply(BlockParts parts, View y) {
  const int64_t j = int64_t{blockIdx.y} * blockDim.x + threadIdx.x, n = blockIdx.x;
  if (j >= parts.width) return;
  const BlockParts::Part& part = parts.list[blockIdx.z];
  const int64_t size = parts.size, block = j / size, out = j % size;
  const int64_t panels = (size + kPanel - 1) / kPanel;
  const float* const weight =
      parts.wide ? part.weight + ((block * panels + out / kPanel) * size) * kPanel + out % kPanel : part.weight + j;
  const int64_t stride = parts.wide ? kPanel : parts.width;
  const float* const x = static_cast<const float*>(part.x.data) + n * part.x.stride + block * size;
  float sum = 0;
  for (int64_t d = 0; d < size; ++d) sum = fmaf(weight[d * stride], x[d], sum);
  if (part.bias != nullptr) sum += part.bias[j];
  static_cast<float*>(y.data)[n * y.stride + blockIdx.z * parts.width + j] = sum;
}

}  // namespace

int64_t block_products_workspace(const Stream&, const ops::BlockProductsArgs&) { return 0; }

void block_products(const Stream& stream, const ops::BlockProductsArgs& args) {
  const ops::BlockWeight& first = *args.parts[0].weight;
  BlockParts parts = {};
  parts.size = first.size();
  parts.width = first.width();
  parts.wide = first.wide();
  for (int64_t i = 0; i < args.count; ++i) {
    const ops::BlockWeight& weight = *args.parts[i].weight;
    const void* const packed = parts.wide ? static_cast<const void*>(weight.panels(0)) : weight.lanes().raw();
    parts.list[i] = {args.parts[i].x, static_cast<const float*>(packed),
                     static_cast<const float*>(weight.bias().raw())};
  }
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(blocks_of(parts.width, kThreads)),
                  static_cast<unsigned>(args.count));
  multiply<<<grid, kThreads, 0, queue_of(stream)>>>(parts, args.y);
  launched("block_linear");
}

}  // namespace carousel::cuda
