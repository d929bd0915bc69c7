// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention (arXiv:2305.13245) with rotary positions (arXiv:2104.09864), as in Llama and LFM2; LFM3's
// options: a window, a sigmoid gate per head (arXiv:2505.06708), rotation of only the first part of each head.
#include "carousel/ops/attention/attention.h"
#include "carousel/blocks/limits.h"

#include <cmath>

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxWindow = int64_t{1} << 40;

// The number of rotated elements of a head: R = trunc(factor * d), as in transformers.
int64_t rotary_dim(Fields& options, int64_t head_dim) {
  const double factor = options.number("partial_rotary_factor", 0, 1, 1.0);
  const auto dim = static_cast<int64_t>(static_cast<double>(head_dim) * factor);
  if (dim < 2 || dim % 2 != 0) {
    fail(ErrorKind::kInput, "{}: {} of head_dim {} is rotated, expected an even number above 0 (rotary pairs)",
         options.where(), dim, head_dim);
  }
  return dim;
}

// inv_freq[j] = theta^(-2j/R) in f32 as the reference computes it, then Llama 3's stretching of long wavelengths:
// frequencies beyond original/low are divided by `factor`, those within original/high kept, the rest interpolated.
Tensor rotary_frequencies(Fields& options, int64_t rotary) {
  const double theta = options.number("rope_theta", 1e-3, 1e12, 10000.0);
  const std::string type = options.choice("rope_type", {"default", "llama3"}, "default");
  Tensor inv_freq(Shape{rotary / 2}, DType::kF32);
  for (int64_t j = 0; j < rotary / 2; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(rotary);
    inv_freq.f32()[j] = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
  if (type == "default") return inv_freq;

  const double factor = options.number("rope_factor", 1e-6, 1e6);
  const double low = options.number("rope_low_freq_factor", 1e-6, 1e6);
  const double high = options.number("rope_high_freq_factor", 1e-6, 1e6);
  const auto original = static_cast<double>(options.integer("rope_original_max_position", 1, int64_t{1} << 40));
  if (high <= low) {
    fail(ErrorKind::kInput, "{}: rotary high_freq_factor {:g}, expected more than low_freq_factor {:g}",
         options.where(), high, low);
  }
  for (int64_t j = 0; j < rotary / 2; ++j) {
    const double freq = inv_freq.f32()[j];
    const double wavelength = 2 * M_PI / freq;
    const double smooth = (original / wavelength - low) / (high - low);
    double scaled = (1 - smooth) * freq / factor + smooth * freq;
    if (wavelength > original / low) scaled = freq / factor;
    if (wavelength < original / high) scaled = freq;
    inv_freq.f32()[j] = static_cast<float>(scaled);
  }
  return inv_freq;
}

class Attention : public Block {
 public:
  Attention(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    const int64_t hidden = config.hidden_size;
    const std::string& where = options.where();
    dims_.heads = options.integer("num_heads", 1, kMaxHeads, 8);
    dims_.kv_heads = options.integer("num_kv_heads", 1, kMaxHeads, dims_.heads);
    if (dims_.heads % dims_.kv_heads != 0) {
      fail(ErrorKind::kInput, "{}: {} query heads, expected a multiple of the {} key heads", where, dims_.heads,
           dims_.kv_heads);
    }
    if (!options.has("head_dim") && hidden % dims_.heads != 0) {
      fail(ErrorKind::kInput, "{}: width {} does not divide into {} heads; set \"head_dim\"", where, hidden,
           dims_.heads);
    }
    dims_.head_dim = options.integer("head_dim", 1, kMaxHeadDim, hidden / dims_.heads);
    dims_.norm_eps = static_cast<float>(options.number("norm_eps", 0, 1, 1e-5));
    dims_.inv_freq = rotary_frequencies(options, rotary_dim(options, dims_.head_dim));
    dims_.window = options.integer("window", 0, kMaxWindow, 0);
    const bool bias = options.boolean("use_bias", false);
    const bool qk_norm = options.boolean("qk_norm", false);

    const int64_t q_dim = dims_.heads * dims_.head_dim;
    const int64_t kv_dim = dims_.kv_heads * dims_.head_dim;
    q_ = p.projection("q_proj", q_dim, hidden, Init::small(hidden), bias);
    dims_.inv_freq = dims_.inv_freq.to(q_.memory());
    k_ = p.projection("k_proj", kv_dim, hidden, Init::small(hidden), bias);
    v_ = p.projection("v_proj", kv_dim, hidden, Init::small(hidden), bias);
    if (qk_norm) {
      dims_.q_norm = p.tensor("q_norm.weight", Shape{dims_.head_dim}, Init::constant(1));
      dims_.k_norm = p.tensor("k_norm.weight", Shape{dims_.head_dim}, Init::constant(1));
    }
    if (options.boolean("head_gate", false)) {
      gate_ = p.projection("gate_proj", dims_.heads, hidden, Init::small(hidden).as_gate(), bias);
    }
    out_ = p.projection("out_proj", hidden, q_dim, Init::wang(hidden, config.num_layers), bias);
  }

  std::vector<StateSpec> state() const override {
    const Shape keys{dims_.kv_heads, dims_.head_dim, kPageRows}, values{dims_.kv_heads, kPageRows, dims_.head_dim};
    return {{.name = "k", .shape = keys, .per_token = true, .cut_anywhere = true},
            {.name = "v", .shape = values, .per_token = true, .cut_anywhere = true}};
  }

  double cell_flops(int64_t rows, int64_t depth) const override { return ops::attention_flops(dims_, rows, depth); }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor qkv = ops::linear(ctx, x, {&q_, &k_, &v_});       // [N, (H + 2G) d]
    Tensor mixed = ops::attention(ctx, qkv, dims_, seqs, states);  // [N, H d]
    if (gate_.defined()) mixed = ops::gate_heads(ctx, mixed, ops::linear(ctx, x, {&gate_}));
    return ops::linear(ctx, mixed, {&out_});
  }

 private:
  ops::AttentionDims dims_;
  Weight q_;      // [H*d, D]
  Weight k_, v_;  // [G*d, D]
  Weight gate_;   // [H, D], or empty
  Weight out_;    // [D, H*d]
};

}  // namespace

std::unique_ptr<Block> make_attention(const BlockConfig& config, Params params) {
  return std::make_unique<Attention>(config, std::move(params));
}

}  // namespace carousel::blocks
