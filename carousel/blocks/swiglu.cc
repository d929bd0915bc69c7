// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward network: down(activation(gate(x)) * up(x)) (arXiv:2002.05202), SiLU unless told otherwise.
#include <cmath>

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"
#include "carousel/ops/linear/feed_forward.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 30;

class Swiglu : public Block {
 public:
  Swiglu(const BlockConfig& config, Params p) {
    const int64_t hidden = config.hidden_size;
    const int64_t width = ffn_width(config);
    const bool bias = config.options.boolean("use_bias", false);
    activation_ = activation(config.options);
    const bool by_hidden =
        config.options.choice("down_init", {"ffn_width", "hidden_size"}, "ffn_width") == "hidden_size";
    gate_ = p.projection("gate", width, hidden, Init::small(hidden), bias);
    up_ = p.projection("up", width, hidden, Init::small(hidden), bias);
    down_ = p.projection("down", hidden, width, Init::wang(by_hidden ? hidden : width, config.num_layers), bias);
  }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs&, LayerStates) const override {
    return ops::feed_forward(ctx, x, gate_, up_, down_, activation_);
  }

 private:
  static ops::Activation activation(Fields& options) {
    using ops::Activation;
    static constexpr std::pair<const char*, Activation> kNames[] = {
        {"silu", Activation::kSilu}, {"swish", Activation::kSilu},   {"gelu", Activation::kGelu},
        {"relu", Activation::kRelu}, {"relu^2", Activation::kRelu2}, {"sigmoid", Activation::kSigmoid},
        {"selu", Activation::kSelu}};
    std::vector<std::string> known;
    for (const auto& [name, activation] : kNames) known.emplace_back(name);
    const std::string chosen = options.choice("activation", known, "silu");
    for (const auto& [name, activation] : kNames) {
      if (chosen == name) return activation;
    }
    return Activation::kSilu;
  }

  // "intermediate_size", or xLSTM's floor((D * factor + R - 1) / R) * R in floating point, as the reference rounds it.
  static int64_t ffn_width(const BlockConfig& config) {
    Fields& options = config.options;
    const double factor = options.number("proj_factor", 0, 1024, 2.667);
    const int64_t multiple = options.integer("round_up_to_multiple_of", 1, 1 << 20, 64);
    if (options.has("intermediate_size")) return options.integer("intermediate_size", 1, kMaxWidth);
    options.ignore({"intermediate_size"});
    const double rounded = (static_cast<double>(config.hidden_size) * factor + static_cast<double>(multiple - 1)) /
                           static_cast<double>(multiple);
    const int64_t width = static_cast<int64_t>(rounded) * multiple;
    if (width < 1 || width > kMaxWidth) {
      fail(ErrorKind::kInput, "{}: feed-forward width is {}, expected 1 to {}", options.where(), width, kMaxWidth);
    }
    return width;
  }

  ops::Activation activation_;
  Weight gate_, up_;  // [F, D]
  Weight down_;       // [D, F]
};

}  // namespace

std::unique_ptr<Block> make_swiglu(const BlockConfig& config, Params params) {
  return std::make_unique<Swiglu>(config, std::move(params));
}

}  // namespace carousel::blocks
