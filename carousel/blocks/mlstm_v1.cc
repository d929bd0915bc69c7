// SPDX-License-Identifier: Apache-2.0
// The mLSTM layer of the 2024 xLSTM (arXiv:2405.04517, app. A): up-projection to a memory and an output branch, causal
// convolution, block-diagonal q, k, v, unbounded gates on all three, per-head norm, learnable skip. The cell itself is
// ops/mlstm, with scaled keys.
#include <algorithm>
#include <cmath>

#include "carousel/blocks/block.h"
#include "carousel/blocks/limits.h"
#include "carousel/core/error.h"
#include "carousel/ops/linear/block_linear.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/mlstm/mlstm.h"
#include "carousel/ops/norm/norm.h"
#include "carousel/ops/short_conv/short_conv.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 26;

class MlstmV1 : public Block {
 public:
  MlstmV1(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    const int64_t hidden = config.hidden_size;
    read_sizes(options, hidden);
    const bool bias = options.boolean("use_bias", false);
    dims_.eps = static_cast<float>(options.number("eps", 0, 1, 1e-6));
    dims_.scale_keys = true;
    head_norm_.kind = ops::Norm::Kind::kLayer;
    head_norm_.eps = static_cast<float>(options.number("norm_eps", 0, 1, 1e-5));

    up_ = p.projection("up", 2 * inner_, hidden, Init::small(hidden), bias);
    if (taps_count_ > 0) {
      const Init init = Init::uniform(1.0 / std::sqrt(static_cast<double>(taps_count_)));
      const Tensor weight = p.tensor("conv.weight", Shape{inner_, 1, taps_count_}, init);
      taps_ = p.form(ops::ConvTaps(weight, p.tensor("conv.bias", Shape{inner_}, init)));
    }
    const auto blocks = [&](const char* name) {
      const Tensor weight =
          p.block_projection(name, Shape{inner_ / block_size_, block_size_, block_size_}, Init::small(hidden));
      return p.form(
          ops::BlockWeight(weight, bias ? p.in(name).tensor("bias", Shape{inner_}, Init::constant(0)) : Tensor()));
    };
    q_ = blocks("q");
    k_ = blocks("k");
    v_ = blocks("v");
    i_ = p.projection("igate", dims_.heads, 3 * inner_, Init::constant(0).as_gate(), true, Init::normal(0.1));
    f_ = p.projection("fgate", dims_.heads, 3 * inner_, Init::constant(0).as_gate(), true, Init::linspace(3, 6));
    head_norm_.weight = p.tensor("head_norm.weight", Shape{inner_}, Init::constant(0));
    head_norm_.weight_offset = 1;
    skip_ = p.tensor("skip", Shape{inner_}, Init::constant(1));
    down_ = p.projection("down", hidden, inner_, Init::wang(hidden, config.num_layers), bias);
  }

  std::vector<StateSpec> state() const override {
    std::vector<StateSpec> specs = {{"C", DType::kF32, Shape{dims_.heads, dims_.dk, dims_.dv}},
                                    {"n", DType::kF32, Shape{dims_.heads, dims_.dk}},
                                    {"m", DType::kF32, Shape{dims_.heads}}};
    if (taps_count_ > 0) specs.push_back({.name = "u", .shape = Shape{taps_count_, inner_}, .cut_anywhere = true});
    return specs;
  }

  double cell_flops(int64_t rows, int64_t /*depth*/) const override { return ops::mlstm_flops(dims_, rows); }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor up = ops::linear(ctx, x, {&up_});  // [N, 2I]
    const Columns memory = columns(up, 0, inner_), branch = columns(up, inner_, inner_);
    const Columns a =
        taps_count_ > 0 ? columns(ops::silu_conv(ctx, memory, taps_, seqs, states, kConvState)) : memory;  // [N, I]

    const Tensor qkv = ops::block_linear(ctx, {{a, &q_}, {a, &k_}, {memory, &v_}});  // [N, 3I]
    const Tensor gates = ops::linear(ctx, qkv, {&i_, &f_});                          // [N, 2H]
    const int64_t heads = dims_.heads;
    const ops::MlstmInputs inputs = {columns(qkv, 0, inner_), columns(qkv, inner_, inner_),
                                     columns(qkv, 2 * inner_, inner_), columns(gates, 0, heads),
                                     columns(gates, heads, heads)};
    const Tensor h = ops::mlstm(ctx, inputs, dims_, seqs, states);
    const Tensor out = ops::head_norm(ctx, h, heads, head_norm_, {ops::NormGate::Kind::kSilu, branch, a, skip_});
    return ops::linear(ctx, out, {&down_});
  }

 private:
  static constexpr size_t kConvState = 3;

  void read_sizes(Fields& options, int64_t hidden) {
    dims_.heads = options.integer("num_heads", 1, kMaxHeads, 4);
    const double factor = options.number("proj_factor", 0, 1024, 2.0);
    const int64_t multiple = options.integer("round_up_to_multiple_of", 1, 1 << 20, 64);
    const double units = std::ceil(static_cast<double>(hidden) * factor / static_cast<double>(multiple));
    inner_ = static_cast<int64_t>(std::min(units, static_cast<double>(kMaxWidth))) * multiple;
    inner_ = options.integer("inner_size", 1, kMaxWidth, inner_);
    taps_count_ = options.integer("conv_kernel_size", 0, 1024, 4);
    block_size_ = options.integer("qkv_block_size", 1, kMaxWidth, 4);
    const std::string& where = options.where();
    if (inner_ < 1 || inner_ > kMaxWidth) {
      fail(ErrorKind::kInput, "{}: inner width is {}, expected 1 to {}", where, inner_, kMaxWidth);
    }
    if (inner_ % dims_.heads != 0 || inner_ % block_size_ != 0) {
      fail(ErrorKind::kInput,
           "{}: inner width {} does not divide into \"num_heads\" {} and blocks of \"qkv_block_size\" {}", where,
           inner_, dims_.heads, block_size_);
    }
    dims_.dk = dims_.dv = inner_ / dims_.heads;
  }

  ops::MlstmDims dims_;
  int64_t inner_ = 0;           // I
  int64_t taps_count_ = 0;      // K; 0: no convolution and no SiLU
  int64_t block_size_ = 0;      // inputs and outputs of a block of q, k and v
  Weight up_;                   // [2I, D]
  ops::ConvTaps taps_;          // [K, I], with bias
  ops::BlockWeight q_, k_, v_;  // [I, I]
  Weight i_, f_;                // [H, 3I], with bias
  ops::Norm head_norm_;         // weight [I]
  Tensor skip_;                 // [I] f32
  Weight down_;                 // [D, I]
};

}  // namespace

std::unique_ptr<Block> make_mlstm_v1(const BlockConfig& config, Params params) {
  return std::make_unique<MlstmV1>(config, std::move(params));
}

}  // namespace carousel::blocks
