// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/linear/block_linear.h"

#include <array>

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::block_linear";
constexpr size_t kMaxParts = 8;

void check_parts(View x, std::initializer_list<BlockPart> parts, View y) {
  if (parts.size() == 0 || parts.size() > kMaxParts) {
    fail(ErrorKind::kShape, "{}: got {} weights, expected 1 to {}", kWhere, parts.size(), kMaxParts);
  }
  const BlockWeight& first = *parts.begin()->weight;
  const int64_t width = first.blocks * first.size;
  if (width < 1 || x.stride < width) {
    fail(ErrorKind::kShape, "{}: x has row stride {}, expected at least {}", kWhere, x.stride, width);
  }
  for (const BlockPart& part : parts) {
    if (part.weight->blocks != first.blocks || part.weight->size != first.size) {
      fail(ErrorKind::kShape, "{}: got {} blocks of {}, expected {} of {} as in the first weight", kWhere,
           part.weight->blocks, part.weight->size, first.blocks, first.size);
    }
    if (part.first_col < 0 || part.first_col + width > y.stride) {
      fail(ErrorKind::kShape, "{}: y has row stride {}, expected at least {}", kWhere, y.stride,
           part.first_col + width);
    }
  }
}

// One product per block, with all parts side by side.
void wide_products(Ctx& ctx, View x, int64_t rows, std::initializer_list<BlockPart> parts, View y) {
  const BlockWeight& first = *parts.begin()->weight;
  const int64_t size = first.size;
  const bool copies = rows > 1 && x.stride != size;
  const Tensor block_x = copies ? ctx.arena.empty({rows, size}) : Tensor();
  const Tensor packed = rows > 1 ? ctx.arena.empty({rows, size}) : Tensor();
  for (int64_t b = 0; b < first.blocks; ++b) {
    const View columns_b = {x.data + b * size, x.stride};
    if (copies) kernels::copy_columns(ctx.stream, {columns_b, block_x.f32(), rows, size});
    std::array<LinearPart, kMaxParts> list = {};
    int64_t count = 0;
    for (const BlockPart& part : parts) {
      const Weight& weight = part.weight->wide[static_cast<size_t>(b)];
      const float* bias = part.weight->bias.defined() ? part.weight->bias.f32() + b * size : nullptr;
      list[static_cast<size_t>(count++)] = {weight.storage().raw(), bias, size, part.first_col + b * size,
                                            weight.dtype()};
    }
    kernels::linear_fwd(ctx.stream, {copies ? block_x.f32() : columns_b.data, rows > 1 ? packed.f32() : nullptr,
                                     list.data(), count, rows, size, y.data, y.stride});
  }
}

}  // namespace

BlockWeight pack_blocks(const Tensor& weight, const Tensor& bias) {
  check_shape(kWhere, "weight", weight, {-1, -1, weight.dim(1)});
  check_dtype(kWhere, "weight", weight, DType::kF32);
  BlockWeight out;
  out.blocks = weight.dim(0);
  out.size = weight.dim(1);
  out.bias = bias;
  const int64_t width = out.blocks * out.size, size = out.size;
  if (bias.defined()) check_shape(kWhere, "bias", bias, {width});
  if (weight.raw() == nullptr) return out;
  if (size >= Weight::kPanelRows) {
    ThreadPool alone(1);  // packed once, when the model is built
    const Stream stream{&Memory::host(), Isa::kPortable, &alone};
    for (int64_t b = 0; b < out.blocks; ++b) {
      out.wide.emplace_back(size, size, DType::kF32, Weight::Layout::kPanels);
      out.wide.back().write_rows(stream, 0, size, weight.f32() + b * size * size);
    }
    return out;
  }
  out.narrow = Tensor(Shape{size, width}, DType::kF32);
  for (int64_t j = 0; j < width; ++j) {
    for (int64_t d = 0; d < size; ++d) out.narrow.f32()[d * width + j] = weight.f32()[j * size + d];
  }
  return out;
}

void block_linear(Ctx& ctx, View x, int64_t rows, std::initializer_list<BlockPart> parts, View y) {
  check_parts(x, parts, y);
  if (rows == 0) return;
  const BlockWeight& first = *parts.begin()->weight;
  const int64_t width = first.blocks * first.size;
  const bool wide = first.size >= Weight::kPanelRows;
  if (wide) wide_products(ctx, x, rows, parts, y);
  for (const BlockPart& part : parts) {
    const View out = {y.data + part.first_col, y.stride};
    const float* bias = part.weight->bias.defined() ? part.weight->bias.f32() : nullptr;
    if (!wide) kernels::block_linear(ctx.stream, {x, out, part.weight->narrow.f32(), bias, rows, width, first.size});
    if (ctx.numerics.activations != DType::kF32) round_to(ctx, out, rows, width, ctx.numerics.activations);
  }
}

}  // namespace carousel::ops
