// SPDX-License-Identifier: Apache-2.0
// LFM2's short convolution layer: in_proj to B, C, X; causal depthwise convolution of B * X; gate by C; out_proj.
#include "carousel/ops/short_conv/short_conv.h"

#include <cmath>

#include "carousel/blocks/block.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::blocks {
namespace {

class ShortConv : public Block {
 public:
  ShortConv(const BlockConfig& config, Params p) : hidden_(config.hidden_size) {
    taps_count_ = config.options.integer("kernel_size", 1, 1024, 3);
    const bool bias = config.options.boolean("use_bias", false);
    const Init conv_init = Init::uniform(1.0 / std::sqrt(static_cast<double>(taps_count_)));
    in_ = p.projection("in_proj", 3 * hidden_, hidden_, Init::small(hidden_), bias);
    const Tensor conv = p.tensor("conv.weight", Shape{hidden_, 1, taps_count_}, conv_init);
    const Tensor conv_bias = bias ? p.tensor("conv.bias", Shape{hidden_}, conv_init) : Tensor();
    out_ = p.projection("out_proj", hidden_, hidden_, Init::wang(hidden_, config.num_layers), bias);
    taps_ = p.form(ops::ConvTaps(conv, conv_bias));
  }

  std::vector<StateSpec> state() const override {
    if (taps_count_ == 1) return {};
    return {{.name = "u", .shape = Shape{taps_count_ - 1, hidden_}, .cut_anywhere = true}};
  }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor bcx = ops::linear(ctx, x, {&in_});  // [N, 3D]
    const Tensor gated = ops::short_conv(ctx, bcx, taps_, seqs, states);
    return ops::linear(ctx, gated, {&out_});
  }

 private:
  int64_t hidden_;
  int64_t taps_count_;  // K
  Weight in_;           // [3D, D]
  ops::ConvTaps taps_;  // [K, D], bias or none
  Weight out_;          // [D, D]
};

}  // namespace

std::unique_ptr<Block> make_short_conv(const BlockConfig& config, Params params) {
  return std::make_unique<ShortConv>(config, std::move(params));
}

}  // namespace carousel::blocks
