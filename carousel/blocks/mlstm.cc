// SPDX-License-Identifier: Apache-2.0
// The mLSTM layer of xLSTM-7B (arXiv:2503.13427, sec. 3): projections, matrix memory, per-head norm, output gate.
// The cell itself is ops/mlstm.
#include "carousel/ops/mlstm/mlstm.h"
#include "carousel/blocks/limits.h"

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/norm/norm.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxChunk = 65536;

class Mlstm : public Block {
 public:
  Mlstm(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    const int64_t hidden = config.hidden_size;
    dims_.heads = options.integer("num_heads", 1, kMaxHeads, 8);
    const int64_t qk_dim = width(options, "qk_dim_factor", 0.5, hidden);
    const int64_t v_dim = width(options, "v_dim_factor", 1.0, hidden);
    const bool bias = options.boolean("use_bias", false);
    dims_.gate_soft_cap = optional_cap(options, "gate_soft_cap", 15.0);
    dims_.eps = static_cast<float>(options.number("eps", 0, 1, 1e-6));
    dims_.call_chunk = options.integer("chunk_size", 1, kMaxChunk, dims_.call_chunk);
    head_norm_.eps = static_cast<float>(options.number("norm_eps", 0, 1, 1e-6));
    head_norm_.kind = options.choice("head_norm", {"layernorm", "rmsnorm"}, "layernorm") == "rmsnorm"
                          ? ops::Norm::Kind::kRms
                          : ops::Norm::Kind::kLayer;
    check_heads(options.where(), qk_dim, v_dim);
    dims_.dk = qk_dim / dims_.heads;
    dims_.dv = v_dim / dims_.heads;

    q_ = p.projection("q", qk_dim, hidden, Init::small(hidden), bias);
    k_ = p.projection("k", qk_dim, hidden, Init::small(hidden), bias);
    v_ = p.projection("v", v_dim, hidden, Init::small(hidden), bias);
    o_ = p.projection("ogate", v_dim, hidden, Init::constant(0), bias);
    i_ = p.projection("igate", dims_.heads, hidden, Init::constant(0).as_gate(), true, Init::constant(-10));
    f_ = p.projection("fgate", dims_.heads, hidden, Init::constant(0).as_gate(), true, Init::linspace(3, 6));
    head_norm_.weight = p.tensor("head_norm.weight", Shape{v_dim}, Init::constant(1));
    if (bias) head_norm_.bias = p.tensor("head_norm.bias", Shape{v_dim}, Init::constant(0));
    out_ = p.projection("out", hidden, v_dim, Init::wang(hidden, config.num_layers), bias);
  }

  std::vector<StateSpec> state() const override {
    return {{"C", DType::kF32, Shape{dims_.heads, dims_.dk, dims_.dv}},
            {"n", DType::kF32, Shape{dims_.heads, dims_.dk}},
            {"m", DType::kF32, Shape{dims_.heads}}};
  }

  double cell_flops(int64_t rows, int64_t /*depth*/) const override { return ops::mlstm_flops(dims_, rows); }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor proj = ops::linear(ctx, x, {&q_, &k_, &v_, &o_, &i_, &f_});  // [N, 2 H Dk + 2 H Dv + 2 H]
    const int64_t qk = dims_.heads * dims_.dk;
    const int64_t vo = dims_.heads * dims_.dv;
    const int64_t gates = 2 * qk + 2 * vo;
    const ops::MlstmInputs inputs = {columns(proj, 0, qk), columns(proj, qk, qk), columns(proj, 2 * qk, vo),
                                     columns(proj, gates, dims_.heads),
                                     columns(proj, gates + dims_.heads, dims_.heads)};
    const Tensor h = ops::mlstm(ctx, inputs, dims_, seqs, states);
    const ops::NormGate gate = {ops::NormGate::Kind::kSigmoid, columns(proj, 2 * qk + vo, vo), {}, {}};
    const Tensor gated = ops::head_norm(ctx, h, dims_.heads, head_norm_, gate);
    return ops::linear(ctx, gated, {&out_});
  }

 private:
  static int64_t width(Fields& options, const char* key, double fallback, int64_t hidden) {
    const double factor = options.number(key, 0, 64, fallback);
    const auto dim = static_cast<int64_t>(static_cast<double>(hidden) * factor);  // int(D * f), as the reference
    if (dim < 1)
      fail(ErrorKind::kInput, "{}: \"{}\" of {:g} gives no channels at width {}", options.where(), key, factor, hidden);
    return dim;
  }
  static float optional_cap(Fields& options, const char* key, double fallback) {
    const Json* value = options.present(key);
    if (value != nullptr && value->is_null()) return 0.0f;
    return static_cast<float>(options.number(key, 0, 1e9, fallback));
  }
  void check_heads(const std::string& where, int64_t qk_dim, int64_t v_dim) const {
    if (qk_dim % dims_.heads != 0 || v_dim % dims_.heads != 0) {
      fail(ErrorKind::kInput, "{}: {} query and {} value channels do not divide into \"num_heads\" {}", where, qk_dim,
           v_dim, dims_.heads);
    }
  }

  ops::MlstmDims dims_;
  Weight q_, k_;         // [H*Dk, D]
  Weight v_, o_;         // [H*Dv, D]
  Weight i_, f_;         // [H, D], with bias
  ops::Norm head_norm_;  // weight [H*Dv]
  Weight out_;           // [D, H*Dv]
};

}  // namespace

std::unique_ptr<Block> make_mlstm(const BlockConfig& config, Params params) {
  return std::make_unique<Mlstm>(config, std::move(params));
}

}  // namespace carousel::blocks
