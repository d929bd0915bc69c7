// SPDX-License-Identifier: Apache-2.0
// The sLSTM layer of the 2024 xLSTM (arXiv:2405.04517, app. A): causal convolution before the input and forget gates,
// head-wise gate projections, the recurrence, per-head norm; no output projection. The cell itself is ops/slstm.
#include "carousel/ops/slstm/slstm.h"
#include "carousel/blocks/limits.h"

#include <cmath>

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"
#include "carousel/ops/linear/block_linear.h"
#include "carousel/ops/norm/norm.h"
#include "carousel/ops/short_conv/short_conv.h"

namespace carousel::blocks {
namespace {

// Forget biases of one head. The power law goes from 5 down to -7, more slowly in later blocks.
std::vector<double> forget_biases(const std::string& kind, double position, int64_t dh) {
  std::vector<double> out(static_cast<size_t>(dh), 0.0);
  for (int64_t j = 0; j < dh; ++j) {
    const double share = dh > 1 ? static_cast<double>(j) / static_cast<double>(dh - 1) : 0.0;
    double& bias = out[static_cast<size_t>(j)];
    if (kind == "powerlaw_blockdependent") bias = 5.0 - 12.0 * std::pow(share, 0.3 + 1.3 * position);
    if (kind == "small_init") bias = 3.0 + 3.0 * share;
  }
  return out;
}

class Slstm : public Block {
 public:
  Slstm(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    const int64_t hidden = config.hidden_size;
    read_sizes(options, hidden);
    head_norm_.kind = ops::Norm::Kind::kLayer;
    head_norm_.eps = static_cast<float>(options.number("norm_eps", 0, 1, 1e-5));
    const bool norm_weight = options.boolean("head_norm_weight", true);

    if (taps_count_ > 0) {
      const Init init = Init::uniform(1.0 / std::sqrt(static_cast<double>(taps_count_)));
      const Tensor weight = p.tensor("conv.weight", Shape{hidden, 1, taps_count_}, init);
      taps_ = p.form(ops::ConvTaps(weight, p.tensor("conv.bias", Shape{hidden}, init)));
    }
    Tensor weights[kGates];
    for (size_t g = 0; g < kGates; ++g) {
      weights[g] = p.block_projection(kGateNames[g], Shape{dims_.heads, dims_.dh, dims_.dh}, Init::small(hidden));
    }
    const Tensor recurrent = p.tensor("recurrent", Shape{dims_.heads, dims_.dh, 4 * dims_.dh}, recurrent_init(options));
    const Tensor bias = p.tensor("bias", Shape{4 * hidden}, bias_init(options));
    for (size_t g = 0; g < kGates; ++g) {  // the bias is [H, 4, dh]
      const ops::BlockBias of_gate = {bias, static_cast<int64_t>(g) * dims_.dh, 4 * dims_.dh};
      gates_[g] = p.form(ops::BlockWeight(weights[g], of_gate));
    }
    recurrent_ = p.form(ops::SlstmRecurrent(recurrent, dims_));
    if (norm_weight) {
      head_norm_.weight = p.tensor("head_norm.weight", Shape{hidden}, Init::constant(0));
      head_norm_.weight_offset = 1;
    }
  }

  std::vector<StateSpec> state() const override {
    const Shape row{dims_.heads * dims_.dh};
    std::vector<StateSpec> specs;
    for (const char* name : {"y", "c", "n", "m"}) specs.push_back({.name = name, .shape = row, .cut_anywhere = true});
    const Shape window{taps_count_, dims_.heads * dims_.dh};
    if (taps_count_ > 0) specs.push_back({.name = "u", .shape = window, .cut_anywhere = true});
    return specs;
  }

  double cell_flops(int64_t rows, int64_t /*depth*/) const override { return ops::slstm_flops(dims_, rows); }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor conv =
        taps_count_ > 0 ? ops::silu_conv(ctx, columns(x), taps_, seqs, states, kConvState) : x;  // [N, D]
    const Columns of_conv = columns(conv), of_x = columns(x);
    const Tensor wx = ops::block_linear(
        ctx, {{of_conv, &gates_[0]}, {of_conv, &gates_[1]}, {of_x, &gates_[2]}, {of_x, &gates_[3]}});  // [N, 4D]
    const Tensor y = ops::slstm(ctx, wx, recurrent_, seqs, states);
    return ops::head_norm(ctx, y, dims_.heads, head_norm_, {});
  }

 private:
  static constexpr size_t kGates = 4;
  static constexpr const char* kGateNames[kGates] = {"igate", "fgate", "zgate", "ogate"};
  static constexpr size_t kConvState = 4;

  void read_sizes(Fields& options, int64_t hidden) {
    dims_.heads = options.integer("num_heads", 1, kMaxHeads, 4);
    if (hidden % dims_.heads != 0) {
      fail(ErrorKind::kInput, "{}: width {} does not divide into \"num_heads\" {}", options.where(), hidden,
           dims_.heads);
    }
    dims_.dh = hidden / dims_.heads;
    dims_.f_gate_max = static_cast<float>(options.number("f_gate_max", -1e30, 1e30, 1e30));
    taps_count_ = options.integer("conv_kernel_size", 0, 1024, 4);
  }

  Init recurrent_init(Fields& options) const {
    const bool zeros = options.choice("recurrent_init", {"zeros", "standard"}, "zeros") == "zeros";
    return zeros ? Init::constant(0) : Init::uniform(1.0 / std::sqrt(static_cast<double>(dims_.heads * dims_.dh)));
  }

  // [H, 4, dh]: all zero but the forget gate's.
  Init bias_init(Fields& options) const {
    const std::string kind = options.choice("bias_init", {"powerlaw_blockdependent", "small_init", "standard", "zeros"},
                                            "powerlaw_blockdependent");
    // The block's place in its stack, from 0 (first) to 1 (last).
    const double position = options.number("init_position", 0, 1, 0.0);
    if (kind == "standard") return Init::uniform(1.0 / std::sqrt(static_cast<double>(dims_.heads * dims_.dh)));
    const std::vector<double> forget = forget_biases(kind, position, dims_.dh);
    std::vector<float> values(static_cast<size_t>(4 * dims_.heads * dims_.dh), 0.0f);
    for (int64_t h = 0; h < dims_.heads; ++h) {
      for (int64_t j = 0; j < dims_.dh; ++j) {
        values[static_cast<size_t>((h * 4 + 1) * dims_.dh + j)] = static_cast<float>(forget[static_cast<size_t>(j)]);
      }
    }
    return Init::copied(std::move(values));
  }

  ops::SlstmDims dims_;
  int64_t taps_count_ = 0;          // K; 0: no convolution and no SiLU
  ops::ConvTaps taps_;              // [K, D], with bias
  ops::BlockWeight gates_[kGates];  // [D, D], with bias
  ops::SlstmRecurrent recurrent_;   // [H, dh, 4 dh]
  ops::Norm head_norm_;             // weight [D]
};

}  // namespace

std::unique_ptr<Block> make_slstm(const BlockConfig& config, Params params) {
  return std::make_unique<Slstm>(config, std::move(params));
}

}  // namespace carousel::blocks
