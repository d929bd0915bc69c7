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

using ops::BlockPart;
using ops::BlockProductsArgs;
using ops::BlockWeight;
using ops::LinearPart;

struct Scratch {
  Scratch(const BlockProductsArgs& args, Workspace workspace) {
    const BlockWeight& weight = *args.parts[0].weight;
    if (!weight.wide() || args.rows == 1) return;
    if (args.x_width != weight.size()) block_x = workspace.take<float>(args.rows * weight.size());
    packed = workspace.take<float>(ops::packed_count(args.rows, weight.size()));
    bytes = workspace.bytes();
  }
  float* block_x = nullptr;  // [rows, size], where x is no such matrix itself
  float* packed = nullptr;
  int64_t bytes = 0;
};

View columns_of(const View& view, int64_t first) { return {view.f32() + first, view.stride, view.dtype}; }

/// One product per block, with all parts side by side.
void wide_products(const Stream& stream, const BlockProductsArgs& args) {
  const Scratch scratch(args, Workspace(args.workspace));
  const int64_t size = args.parts[0].weight->size();
  for (int64_t b = 0; b < args.parts[0].weight->blocks(); ++b) {
    const View own = columns_of(args.x, b * size);
    if (scratch.block_x != nullptr) {
      kernels::copy_columns(stream, {own, {scratch.block_x, size}, args.rows, size});
    }
    std::array<LinearPart, ops::kMaxParts> list;
    for (int64_t i = 0; i < args.count; ++i) {
      const BlockPart& part = args.parts[i];
      const Tensor& bias = part.weight->bias();
      list[static_cast<size_t>(i)] = {part.weight->panels(b), bias.defined() ? bias.f32() + b * size : nullptr, size,
                                      part.first_col + b * size, DType::kF32};
    }
    kernels::linear_fwd(stream, {scratch.block_x != nullptr ? scratch.block_x : own.f32(), scratch.packed, list.data(),
                                 args.count, args.rows, size, args.y.f32(), args.y.stride});
  }
}

}  // namespace

int64_t block_products_workspace(const Stream& /*stream*/, const BlockProductsArgs& args) {
  return Scratch(args, {}).bytes;
}

void block_products(const Stream& stream, const BlockProductsArgs& args) {
  if (args.parts[0].weight->wide()) return wide_products(stream, args);
  for (int64_t i = 0; i < args.count; ++i) {
    const BlockPart& part = args.parts[i];
    const Tensor& bias = part.weight->bias();
    kernels::block_linear(
        stream, {args.x, columns_of(args.y, part.first_col), part.weight->lanes().f32(),
                 bias.defined() ? bias.f32() : nullptr, args.rows, part.weight->width(), part.weight->size()});
  }
}

}  // namespace carousel::cpu
