// SPDX-License-Identifier: Apache-2.0
// Block-diagonal products: wide blocks through the kernel of ops::linear, narrow ones through one of their own.
#include "carousel/ops/linear/block_linear.h"

#include <array>

#include "carousel/core/error.h"
#include "carousel/ops/linear/block_linear_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/rows/rows.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::block_linear";
constexpr size_t kMaxParts = 8;

void check_parts(const Columns& x, std::initializer_list<BlockPart> parts, const Columns& y) {
  if (parts.size() == 0 || parts.size() > kMaxParts) {
    fail(ErrorKind::kShape, "{}: got {} weights, expected 1 to {}", kWhere, parts.size(), kMaxParts);
  }
  const BlockWeight& first = *parts.begin()->weight;
  const int64_t width = first.blocks * first.size;
  if (width < 1) fail(ErrorKind::kShape, "{}: got an empty weight, expected blocks", kWhere);
  check_columns(kWhere, "x", x, x.of.dim(0), width);
  for (const BlockPart& part : parts) {
    if (part.weight->blocks != first.blocks || part.weight->size != first.size) {
      fail(ErrorKind::kShape, "{}: got {} blocks of {}, expected {} of {} as in the first weight", kWhere,
           part.weight->blocks, part.weight->size, first.blocks, first.size);
    }
    if (part.first_col < 0 || part.first_col + width > y.count) {
      fail(ErrorKind::kShape, "{}: y has {} columns, expected at least {}", kWhere, y.count, part.first_col + width);
    }
  }
  check_columns(kWhere, "y", y, x.rows(), y.count);
}

// One product per block, with all parts side by side.
void wide_products(Ctx& ctx, const Columns& x, std::initializer_list<BlockPart> parts, const Columns& y) {
  const BlockWeight& first = *parts.begin()->weight;
  const int64_t rows = x.rows(), size = first.size;
  const bool copies = rows > 1 && x.of.dim(1) != size;
  const Tensor block_x = copies ? ctx.arena.empty({rows, size}) : Tensor();
  const Tensor packed = rows > 1 ? ctx.arena.empty({rows, size}) : Tensor();
  const View out = view(y);
  for (int64_t b = 0; b < first.blocks; ++b) {
    const Columns own = columns(x.of, x.first + b * size, size);
    if (copies) copy_columns(ctx, own, columns(block_x));
    std::array<LinearPart, kMaxParts> list = {};
    int64_t count = 0;
    for (const BlockPart& part : parts) {
      const Weight& weight = part.weight->wide[static_cast<size_t>(b)];
      const bool biased = part.weight->bias.defined() && part.weight->bias.raw() != nullptr;
      const float* bias = biased ? part.weight->bias.f32() + b * size : nullptr;
      list[static_cast<size_t>(count++)] = {weight.storage().raw(), bias, size, part.first_col + b * size,
                                            weight.dtype()};
    }
    const View block = copies ? view(block_x) : view(own);
    kernels::linear_fwd(ctx.stream, {block.f32(), rows > 1 ? packed.f32() : nullptr, list.data(), count, rows, size,
                                     out.f32(), out.stride});
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
  if (size >= Weight::kPanelRows) {
    ThreadPool alone(1);  // packed once, when the model is built
    const Stream stream{&Memory::host(), Isa::kPortable, &alone};
    for (int64_t b = 0; b < out.blocks; ++b) {
      out.wide.emplace_back(size, size, DType::kF32, Weight::Layout::kPanels, weight.memory());
      if (weight.raw() != nullptr) out.wide.back().write_rows(stream, 0, size, weight.f32() + b * size * size);
    }
    return out;
  }
  out.narrow = Tensor(Shape{size, width}, DType::kF32, weight.memory());
  for (int64_t j = 0; j < width && weight.raw() != nullptr; ++j) {
    for (int64_t d = 0; d < size; ++d) out.narrow.f32()[d * width + j] = weight.f32()[j * size + d];
  }
  return out;
}

void block_linear(Ctx& ctx, const Columns& x, std::initializer_list<BlockPart> parts, const Columns& y) {
  check_parts(x, parts, y);
  if (x.rows() == 0) return;
  const BlockWeight& first = *parts.begin()->weight;
  const int64_t width = first.blocks * first.size;
  const bool wide = first.size >= Weight::kPanelRows;
  if (wide) wide_products(ctx, x, parts, y);
  for (const BlockPart& part : parts) {
    const Columns out = columns(y.of, y.first + part.first_col, width);
    const float* bias = part.weight->bias.defined() ? part.weight->bias.f32() : nullptr;
    if (!wide) {
      kernels::block_linear(ctx.stream,
                            {view(x), view(out), part.weight->narrow.f32(), bias, x.rows(), width, first.size});
    }
    if (ctx.numerics.activations != DType::kF32) round_to(ctx, out, ctx.numerics.activations);
  }
}

}  // namespace carousel::ops
