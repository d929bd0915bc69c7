// SPDX-License-Identifier: Apache-2.0
// Block-diagonal products: the packing of their weights, checks, the calls of the kernels.
#include "carousel/ops/linear/block_linear.h"

#include <algorithm>
#include <array>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/slab.h"
#include "carousel/ops/linear/block_linear_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/packing.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::block_linear";
constexpr int64_t kPanelRows = DensePanels::kPanelRows;

void check_parts(std::initializer_list<BlockPart> parts) {
  if (parts.size() == 0 || parts.size() > kMaxParts) {
    fail(ErrorKind::kShape, "{}: got {} weights, expected 1 to {}", kWhere, parts.size(), kMaxParts);
  }
  const BlockWeight& first = *parts.begin()->weight;
  if (first.width() < 1) fail(ErrorKind::kShape, "{}: got an empty weight, expected blocks", kWhere);
  for (const BlockPart& part : parts) {
    if (part.weight->blocks() != first.blocks() || part.weight->size() != first.size()) {
      fail(ErrorKind::kShape, "{}: got {} blocks of {}, expected {} of {} as in the first weight", kWhere,
           part.weight->blocks(), part.weight->size(), first.blocks(), first.size());
    }
    check_columns(kWhere, "x", part.x, parts.begin()->x.rows(), first.width());
  }
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
  const Tensor weight = weight_.to_host();
  const Packing packed(packed_);
  for (int64_t b = 0; b < blocks_ && wide(); ++b) {
    std::byte* const panels = packed.bytes() + b * block_bytes(size_);
    for (int64_t row = 0; row < size_; row += kPanelRows) {
      const float* from = weight.f32() + (b * size_ + row) * size_;
      std::byte* panel = panels + row / kPanelRows * (block_bytes(size_) / block_panels(size_));
      pack_panel_rows(panel, 0, std::min(kPanelRows, size_ - row), reinterpret_cast<const std::byte*>(from), size_,
                      DType::kF32);
    }
  }
  for (int64_t j = 0; j < width() && !wide(); ++j) {
    for (int64_t d = 0; d < size_; ++d) packed.f32()[d * width() + j] = weight.f32()[j * size_ + d];
  }
  packed.finish();
  if (!bias_.defined() || bias_.raw() == biases_.values.raw()) return;
  const Tensor biases = biases_.values.to_host();
  const Packing side_by_side(bias_);
  for (int64_t b = 0; b < blocks_; ++b) {
    std::copy_n(biases.f32() + biases_.first + b * biases_.stride, size_, side_by_side.f32() + b * size_);
  }
  side_by_side.finish();
}

void BlockWeight::release() {
  weight_ = Tensor();
  biases_ = BlockBias();
}

const std::byte* BlockWeight::panels(int64_t block) const {
  return static_cast<const std::byte*>(packed_.raw()) + block * block_bytes(size_);
}

namespace {

struct Held {
  Columns x;
  BlockWeight weight;

  bool reads_as(const Held& other) const {
    return x.of.id() == other.x.of.id() && x.of.raw() == other.x.of.raw() && x.first == other.x.first;
  }
};

/// The gradients of parts that read the same x; d_y from their first output on.
void group_backward(Ctx& ctx, std::span<const Held> group, const Tensor& d_y, int64_t first_column, Grads& grads) {
  const Columns& x = group.front().x;
  const BlockWeight& first = group.front().weight;
  std::vector<BlockBackwardPart> parts;
  bool trains = false;
  for (const Held& held : group) {
    const BlockWeight& weight = held.weight;
    const BlockBias& bias = weight.bias_master();
    const auto index = static_cast<int64_t>(parts.size());
    const void* const packed = weight.wide() ? weight.panels(0) : weight.lanes().raw();
    float* const d_bias = grads.parameter(bias.values);
    parts.push_back({view(columns(d_y, first_column + index * first.width(), first.width())),
                     static_cast<const float*>(packed), block_bytes(first.size()) / int64_t{sizeof(float)},
                     grads.parameter(weight.master()), d_bias != nullptr ? d_bias + bias.first : nullptr, bias.stride});
    trains = trains || parts.back().d_weight != nullptr || d_bias != nullptr;
  }
  BlockBackwardArgs args = {view(x),        {},           parts.data(), static_cast<int64_t>(parts.size()), x.rows(),
                            first.blocks(), first.size(), first.wide()};
  if (trains) {
    const Tensor workspace = ctx.workspace(kernels::block_linear_d_weight_workspace(ctx.stream, args));
    args.workspace = workspace.raw();
    kernels::block_linear_d_weight(ctx.stream, args);
  }
  if (!grads.wants(x.of)) return;
  args.d_x = view(grads.write(ctx, x));
  const Tensor workspace = ctx.workspace(kernels::block_linear_d_x_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::block_linear_d_x(ctx.stream, args);
}

void record(Ctx& ctx, std::initializer_list<BlockPart> parts, const Tensor& y) {
  std::vector<Held> all;
  bool needed = false;
  for (const BlockPart& part : parts) {
    needed = needed || ctx.tape->needs(part.x.of) || ctx.tape->needs(part.weight->master()) ||
             ctx.tape->needs(part.weight->bias_master().values);
    all.push_back({part.x, *part.weight});
  }
  if (!needed) return;
  ctx.tape->record_needed(ctx, kWhere, {y}, [all](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    const int64_t width = all.front().weight.width();
    for (size_t first = 0, end = 0; first < all.size(); first = end) {
      for (end = first + 1; end < all.size() && all[end].reads_as(all[first]);) ++end;
      group_backward(inner, std::span(all).subspan(first, end - first), d[0], static_cast<int64_t>(first) * width,
                     grads);
    }
  });
}

}  // namespace

Tensor block_linear(Ctx& ctx, std::initializer_list<BlockPart> parts) {
  check_parts(parts);
  const int64_t rows = parts.begin()->x.rows(), width = parts.begin()->weight->width();
  Tensor y = ctx.arena.empty({rows, static_cast<int64_t>(parts.size()) * width});
  if (rows == 0) return y;
  std::array<BlockProduct, kMaxParts> products;
  std::transform(parts.begin(), parts.end(), products.begin(), [](const BlockPart& part) {
    return BlockProduct{view(part.x), part.weight};
  });
  BlockProductsArgs args = {products.data(), static_cast<int64_t>(parts.size()), rows, view(y)};
  const Tensor workspace = ctx.workspace(kernels::block_products_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::block_products(ctx.stream, args);
  if (ctx.tape != nullptr) record(ctx, parts, y);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
