// SPDX-License-Identifier: Apache-2.0
// Block-diagonal products: the packing of their weights, checks, and the call of the kernel.
#include "carousel/ops/linear/block_linear.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/core/slab.h"
#include "carousel/ops/linear/block_linear_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::block_linear";
constexpr int64_t kPanelRows = DensePanels::kPanelRows;

void check_parts(const Columns& x, std::initializer_list<BlockPart> parts, const Columns& y) {
  if (parts.size() == 0 || parts.size() > kMaxParts) {
    fail(ErrorKind::kShape, "{}: got {} weights, expected 1 to {}", kWhere, parts.size(), kMaxParts);
  }
  const BlockWeight& first = *parts.begin()->weight;
  if (first.width() < 1) fail(ErrorKind::kShape, "{}: got an empty weight, expected blocks", kWhere);
  check_columns(kWhere, "x", x, x.of.dim(0), first.width());
  for (const BlockPart& part : parts) {
    if (part.weight->blocks() != first.blocks() || part.weight->size() != first.size()) {
      fail(ErrorKind::kShape, "{}: got {} blocks of {}, expected {} of {} as in the first weight", kWhere,
           part.weight->blocks(), part.weight->size(), first.blocks(), first.size());
    }
    if (part.first_col < 0 || part.first_col + first.width() > y.count) {
      fail(ErrorKind::kShape, "{}: y has {} columns, expected at least {}", kWhere, y.count,
           part.first_col + first.width());
    }
  }
  check_columns(kWhere, "y", y, x.rows(), y.count);
}

int64_t block_panels(int64_t size) { return (size + kPanelRows - 1) / kPanelRows; }

int64_t block_bytes(int64_t size) {
  return block_panels(size) * static_cast<int64_t>(DensePanels::panel_bytes(size, DType::kF32));
}

}  // namespace

BlockWeight::BlockWeight(const Tensor& weight, const Tensor& bias)
    : BlockWeight(weight, BlockBias{bias, 0, weight.dim(1)}) {
  if (bias.defined()) check_shape(kWhere, "bias", bias, {width()});
}

BlockWeight::BlockWeight(const Tensor& weight, const BlockBias& bias) : weight_(weight), biases_(bias) {
  check_shape(kWhere, "weight", weight, {-1, -1, weight.dim(1)});
  check_dtype(kWhere, "weight", weight, DType::kF32);
  blocks_ = weight.dim(0);
  size_ = weight.dim(1);
  packed_ = wide() ? slab_bytes(blocks_ * block_bytes(size_), weight.memory())
                   : Tensor(Shape{size_, width()}, DType::kF32, weight.memory());
  if (!bias.values.defined()) return;
  check_dtype(kWhere, "bias", bias.values, DType::kF32);
  if (bias.first < 0 || bias.stride < size_ || bias.values.count() < bias.first + (blocks_ - 1) * bias.stride + size_) {
    fail(ErrorKind::kShape, "{}: bias is {}, expected {} blocks of {}, {} apart, from {}", kWhere,
         bias.values.shape().str(), blocks_, size_, bias.stride, bias.first);
  }
  const bool as_it_is = bias.first == 0 && bias.stride == size_;
  bias_ = as_it_is ? bias.values : Tensor(Shape{width()}, DType::kF32, weight.memory());
}

void BlockWeight::pack(const Stream& /*stream*/) const {
  if (packed_.raw() == nullptr) return;
  for (int64_t b = 0; b < blocks_ && wide(); ++b) {
    std::byte* const panels = static_cast<std::byte*>(packed_.raw()) + b * block_bytes(size_);
    for (int64_t row = 0; row < size_; row += kPanelRows) {
      const float* from = weight_.f32() + (b * size_ + row) * size_;
      std::byte* panel = panels + row / kPanelRows * (block_bytes(size_) / block_panels(size_));
      pack_panel_rows(panel, 0, std::min(kPanelRows, size_ - row), reinterpret_cast<const std::byte*>(from), size_,
                      DType::kF32);
    }
  }
  for (int64_t j = 0; j < width() && !wide(); ++j) {
    for (int64_t d = 0; d < size_; ++d) packed_.f32()[d * width() + j] = weight_.f32()[j * size_ + d];
  }
  if (!bias_.defined() || bias_.raw() == biases_.values.raw()) return;
  for (int64_t b = 0; b < blocks_; ++b) {
    std::copy_n(biases_.values.f32() + biases_.first + b * biases_.stride, size_, bias_.f32() + b * size_);
  }
}

void BlockWeight::release() {
  weight_ = Tensor();
  biases_ = BlockBias();
}

const std::byte* BlockWeight::panels(int64_t block) const {
  return static_cast<const std::byte*>(packed_.raw()) + block * block_bytes(size_);
}

void block_linear(Ctx& ctx, const Columns& x, std::initializer_list<BlockPart> parts, const Columns& y) {
  ctx.without_backward("ops::block_linear");
  check_parts(x, parts, y);
  if (x.rows() == 0) return;
  BlockProductsArgs args = {view(x),  x.of.dim(1), parts.begin(), static_cast<int64_t>(parts.size()),
                            x.rows(), view(y),     nullptr};
  const Tensor workspace = ctx.workspace(kernels::block_products_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::block_products(ctx.stream, args);
  if (ctx.numerics.activations == DType::kF32) return;
  for (const BlockPart& part : parts) {
    round_to(ctx, columns(y.of, y.first + part.first_col, part.weight->width()), ctx.numerics.activations);
  }
}

}  // namespace carousel::ops
