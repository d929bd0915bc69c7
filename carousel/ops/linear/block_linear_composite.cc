// SPDX-License-Identifier: Apache-2.0
// Block-diagonal products on the CPU: wide blocks through the kernel of ops::linear, one after the other, narrow ones
// through a kernel of their own.
#include <array>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/linear/block_linear_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/rows/rows_cpu.h"

namespace carousel::cpu {
namespace {

using ops::BlockProduct;
using ops::BlockProductsArgs;
using ops::BlockWeight;
using ops::LinearPart;

struct Scratch {
  Scratch(const BlockProductsArgs& args, Workspace workspace) {
    const BlockWeight& weight = *args.parts[0].weight;
    if (!weight.wide() || args.rows == 1) return;
    bool copies = false;
    for (int64_t i = 0; i < args.count; ++i) copies = copies || args.parts[i].x.stride != weight.size();
    if (copies) block_x = workspace.take<float>(args.rows * weight.size());
    packed = workspace.take<float>(ops::packed_count(args.rows, weight.size()));
    bytes = workspace.bytes();
  }
  float* block_x = nullptr;  // [rows, size], where an x is no such matrix itself
  float* packed = nullptr;
  int64_t bytes = 0;
};

View columns_of(const View& view, int64_t first) { return {view.f32() + first, view.stride, view.dtype}; }

/// The first part after `first` that reads another x.
int64_t end_of_group(const BlockProductsArgs& args, int64_t first) {
  const View& x = args.parts[first].x;
  int64_t end = first + 1;
  while (end < args.count && args.parts[end].x.data == x.data && args.parts[end].x.stride == x.stride) ++end;
  return end;
}

/// One product per block, with parts first to end, which read the same x, side by side.
void wide_products(const Stream& stream, const BlockProductsArgs& args, int64_t first, int64_t end) {
  const Scratch scratch(args, Workspace(args.workspace));
  const int64_t size = args.parts[0].weight->size(), width = args.parts[0].weight->width();
  const View& x = args.parts[first].x;
  for (int64_t b = 0; b < args.parts[0].weight->blocks(); ++b) {
    const View own = columns_of(x, b * size);
    const bool copies = scratch.block_x != nullptr && x.stride != size;
    if (copies) kernels::copy_columns(stream, {own, {scratch.block_x, size}, args.rows, size});
    std::array<LinearPart, ops::kMaxParts> list;
    for (int64_t i = first; i < end; ++i) {
      const BlockWeight& weight = *args.parts[i].weight;
      list[static_cast<size_t>(i - first)] = {weight.panels(b),
                                              weight.bias().defined() ? weight.bias().f32() + b * size : nullptr, size,
                                              i * width + b * size, DType::kF32};
    }
    kernels::linear_fwd(stream, {copies ? scratch.block_x : own.f32(), scratch.packed, list.data(), end - first,
                                 args.rows, size, args.y.f32(), args.y.stride});
  }
}

}  // namespace

int64_t block_products_workspace(const Stream& /*stream*/, const BlockProductsArgs& args) {
  return Scratch(args, {}).bytes;
}

void block_products(const Stream& stream, const BlockProductsArgs& args) {
  for (int64_t first = 0; args.parts[0].weight->wide() && first < args.count;) {
    const int64_t end = end_of_group(args, first);
    wide_products(stream, args, first, end);
    first = end;
  }
  for (int64_t i = 0; i < args.count && !args.parts[0].weight->wide(); ++i) {
    const BlockWeight& weight = *args.parts[i].weight;
    kernels::block_linear(
        stream, {args.parts[i].x, columns_of(args.y, i * weight.width()), weight.lanes().f32(),
                 weight.bias().defined() ? weight.bias().f32() : nullptr, args.rows, weight.width(), weight.size()});
  }
}

}  // namespace carousel::cpu
