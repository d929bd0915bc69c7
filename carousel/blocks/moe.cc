// SPDX-License-Identifier: Apache-2.0
// Mixture of gated feed-forward networks with a sigmoid router, as in LFM2-MoE (transformers' lfm2_moe).
#include "carousel/ops/moe/moe.h"

#include <fmt/format.h>

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxWidth = int64_t{1} << 30;

class Moe : public Block {
 public:
  Moe(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    const int64_t hidden = config.hidden_size;
    const int64_t experts = options.integer("num_experts", 1, kMaxExperts, 8);
    const int64_t width = options.integer("intermediate_size", 1, kMaxWidth, hidden);
    routing_.top_k = options.integer("num_experts_per_tok", 1, kMaxExperts, experts < 2 ? 1 : 2);
    if (routing_.top_k > experts) {
      fail(ErrorKind::kInput, "{}: \"num_experts_per_tok\" is {}, expected at most \"num_experts\" {}", options.where(),
           routing_.top_k, experts);
    }
    routing_.normalise = options.boolean("norm_topk_prob", true);
    routing_.scale = static_cast<float>(options.number("routed_scaling_factor", 0, 1e6, 1.0));
    router_ = p.projection("router", experts, hidden, Init::small(hidden).as_gate());
    // The bias settles near-ties, so it is never rounded to a model's narrower dtype.
    if (options.boolean("use_expert_bias", true)) {
      routing_.expert_bias = p.tensor("expert_bias", Shape{experts}, Init::constant(0).kept_in_f32().held_fixed());
    }
    const double share = static_cast<double>(routing_.top_k) / static_cast<double>(experts);
    const Init in = Init::small(hidden).read_by(share);
    const Init out = Init::wang(width, config.num_layers).read_by(share);
    for (int64_t e = 0; e < experts; ++e) {  // gate, up, down of one expert: the order of files that stack them
      Params expert = p.in(fmt::format("experts.{}", e));
      experts_.push_back({expert.projection("gate", width, hidden, in), expert.projection("up", width, hidden, in),
                          expert.projection("down", hidden, width, out)});
    }
  }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs&, LayerStates) const override {
    const Tensor logits = ops::linear(ctx, x, {&router_});  // [N, E]
    return ops::moe_experts(ctx, x, ops::moe_route(ctx, logits, routing_), experts_);
  }

 private:
  ops::MoeRouting routing_;
  Weight router_;                        // [E, D]
  std::vector<ops::MoeExpert> experts_;  // [E]
};

}  // namespace

std::unique_ptr<Block> make_moe(const BlockConfig& config, Params params) {
  return std::make_unique<Moe>(config, std::move(params));
}

}  // namespace carousel::blocks
