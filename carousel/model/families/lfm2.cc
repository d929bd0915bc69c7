// SPDX-License-Identifier: Apache-2.0
// LFM2 and LFM2-MoE (Liquid AI): gated short convolutions and a few attention layers, dense or with experts from some
// layer on. Every spelling of their configs is read.
#include <fmt/format.h>

#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"

namespace carousel::model {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 30;

// block_ff_dim is the raw width and wins over intermediate_size; auto-adjust takes two thirds and rounds up. Published
// and converted files contradict themselves here, so the tensor's own row count decides, with a warning.
int64_t read_ffn_width(Fields& fields, const ShapeOf& shape_of, ModelConfig& out) {
  int64_t width = fields.integer("intermediate_size", 1, kMaxWidth, 12288);
  width = fields.integer("block_ff_dim", 1, kMaxWidth, width);
  const double multiplier = fields.number("block_ffn_dim_multiplier", 1e-3, 1e3, 1.0);
  const int64_t multiple = fields.integer("block_multiple_of", 1, 1 << 20, 256);
  if (fields.boolean("block_auto_adjust_ff_dim", true)) {
    width = 2 * width / 3;
    width = static_cast<int64_t>(multiplier * static_cast<double>(width));
    width = (width + multiple - 1) / multiple * multiple;
  }
  if (!shape_of || out.num_layers == 0) return width;
  const std::optional<Shape> stored = shape_of("model.layers.0.feed_forward.w1.weight");
  if (!stored || stored->rank() != 2 || (*stored)[0] == width) return width;
  out.warnings.push_back(fmt::format("{}: the feed-forward width computes to {}, the tensors have {}; using theirs",
                                     fields.where(), width, (*stored)[0]));
  return (*stored)[0];
}

std::vector<std::string> read_layer_types(Fields& fields, int64_t num_layers) {
  std::vector<std::string> types = fields.strings("layer_types", kMaxLayers);
  const bool by_index = fields.has("full_attn_idxs");
  const std::vector<int64_t> attention = fields.integers("full_attn_idxs", 0, num_layers - 1, kMaxLayers);
  if (!fields.has("layer_types")) {
    types.assign(static_cast<size_t>(num_layers), by_index ? "conv" : "full_attention");
    for (const int64_t index : attention) types[static_cast<size_t>(index)] = "full_attention";
  }
  if (static_cast<int64_t>(types.size()) != num_layers) {
    fail(ErrorKind::kInput, "{}: \"layer_types\" names {} layers, expected \"num_hidden_layers\" {}", fields.where(),
         types.size(), num_layers);
  }
  for (const std::string& type : types) {
    if (type == "conv" || type == "full_attention") continue;
    fail(ErrorKind::kInput, "{}: unknown layer type \"{}\"; known types: conv, full_attention", fields.where(), type);
  }
  return types;
}

void refuse_other_heads(Fields& fields, const std::string& expected, const std::string& older) {
  for (const std::string& architecture : fields.strings("architectures", 16)) {
    if (architecture == expected || architecture == older) continue;
    fail(ErrorKind::kInput, "{}: architecture \"{}\" is not a language model, expected {}", fields.where(),
         architecture, expected);
  }
}

// Options of the sublayers after the mixers.
struct FeedForward {
  Json ffn;  // "ffn_config"
  Json moe;  // "moe_config"
};

FeedForward read_dense(Fields& fields, const ShapeOf& shape_of, ModelConfig& out) {
  return {Json{{"intermediate_size", read_ffn_width(fields, shape_of, out)}}, {}};
}

// The first layers are dense, with the width that the config gives; the others have experts.
FeedForward read_experts(Fields& fields) {
  FeedForward out;
  out.ffn = {{"type", "moe"},
             {"num_dense_layers", fields.integer("num_dense_layers", 0, kMaxLayers, 2)},
             {"intermediate_size", fields.integer("intermediate_size", 1, kMaxWidth, 7168)}};
  out.moe = {{"intermediate_size", fields.integer("moe_intermediate_size", 1, kMaxWidth, 1792)},
             {"num_experts", fields.integer("num_experts", 1, kMaxDim, 32)},
             {"num_experts_per_tok", fields.integer("num_experts_per_tok", 1, kMaxDim, 4)},
             {"norm_topk_prob", fields.boolean("norm_topk_prob", true)},
             {"use_expert_bias", fields.boolean("use_expert_bias", true)},
             {"routed_scaling_factor", fields.number("routed_scaling_factor", 0, 1e6, 1.0)}};
  return out;
}

ModelConfig read_either(const Json& config, const std::string& where, const ShapeOf& shape_of, bool experts) {
  Fields fields(config, where);
  refuse_other_heads(fields, experts ? "Lfm2MoeForCausalLM" : "Lfm2ForCausalLM", experts ? "" : "LFM2ForCausalLM");
  ModelConfig out;
  out.vocab_size = fields.integer("vocab_size", 1, kMaxDim, 65536);
  out.hidden_size = fields.integer("hidden_size", 1, kMaxDim, experts ? 2048 : 2560);
  out.num_layers = fields.integer("num_hidden_layers", 0, kMaxLayers, 32);
  const double eps = fields.number("norm_eps", 0, 1, 1e-5);
  out.tie_word_embeddings = fields.boolean("tie_word_embeddings", true);
  out.tie_word_embeddings = fields.boolean("tie_embedding", out.tie_word_embeddings);
  out.eos_token_ids = read_eos(fields);
  out.final_norm.eps = eps;

  const int64_t heads = fields.integer("num_attention_heads", 1, kMaxDim, 32);
  Json attention{{"num_heads", heads},
                 {"num_kv_heads", fields.integer("num_key_value_heads", 1, kMaxDim, 8)},
                 {"qk_norm", true},
                 {"norm_eps", eps}};
  if (fields.has("head_dim")) attention["head_dim"] = fields.integer("head_dim", 1, kMaxDim);
  read_rope(fields, 1e6, attention);
  const Json conv{{"kernel_size", fields.integer("conv_L_cache", 1, 1024, 3)},
                  {"use_bias", fields.boolean("conv_bias", false)}};
  const FeedForward feed_forward = experts ? read_experts(fields) : read_dense(fields, shape_of, out);

  LayerPlan plan;
  plan.norm.eps = eps;
  plan.layer_types = read_layer_types(fields, out.num_layers);
  plan.section = [&](const std::string& name) {
    if (name == "conv_config") return conv;
    if (name == "attention_config") return attention;
    return name == "moe_config" ? feed_forward.moe : feed_forward.ffn;
  };
  out.sublayers = expand_layers(plan, where);
  fields.ignore({"head_dim", "num_heads", "block_norm_eps", "block_dim", "block_use_swiglu", "block_mlp_init_scale",
                 "block_out_init_scale", "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init",
                 "use_pos_enc", "theta"});
  accept_transformers_keys(fields, config, out);
  return out;
}

ModelConfig read_lfm2(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  return read_either(config, where, shape_of, false);
}
ModelConfig read_lfm2_moe(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  return read_either(config, where, shape_of, true);
}

struct Spelling {
  const char* name;
  const char* file;
};
constexpr Spelling kSpellings[] = {
    {"conv.norm.", "operator_norm."},
    {"conv.in_proj.", "conv.in_proj."},
    {"conv.conv.", "conv.conv."},
    {"conv.out_proj.", "conv.out_proj."},
    {"full_attention.norm.", "operator_norm."},
    {"full_attention.q_norm.", "self_attn.q_layernorm."},
    {"full_attention.k_norm.", "self_attn.k_layernorm."},
    {"full_attention.", "self_attn."},
    {"ffn.norm.", "ffn_norm."},
    {"ffn.router.", "feed_forward.gate."},
    {"ffn.expert_bias", "feed_forward.expert_bias"},
    {"ffn.gate.", "feed_forward.w1."},
    {"ffn.up.", "feed_forward.w3."},
    {"ffn.down.", "feed_forward.w2."},
};

int64_t experts_in(const ModelConfig& config, int64_t layer) {
  for (const Sublayer& sublayer : config.sublayers) {
    if (sublayer.layer == layer && sublayer.block == "moe") return sublayer.options.at("num_experts").get<int64_t>();
  }
  return 0;
}

// rest "7.gate.weight": published files hold an expert's matrices one by one; transformers 5 stacks those of all
// experts, gate above up.
std::vector<TensorSource> expert_sources(const ModelConfig& config, int64_t layer, const std::string& rest) {
  const size_t dot = rest.find('.');
  const std::string expert = rest.substr(0, dot), matrix = rest.substr(dot + 1);
  const bool down = matrix == "down.weight";
  const char* const file = down ? "w2" : matrix == "gate.weight" ? "w1" : "w3";
  const std::string prefix = fmt::format("model.layers.{}.feed_forward.experts.", layer);
  return {{fmt::format("{}{}.{}.weight", prefix, expert, file)},
          {prefix + (down ? "down_proj" : "gate_up_proj"), true, experts_in(config, layer)}};
}

std::vector<TensorSource> sources(const ModelConfig& config, const std::string& name) {
  if (name == "embeddings.weight") return {{"model.embed_tokens.weight"}};
  if (name == "out_norm.weight") return {{"model.embedding_norm.weight"}};
  if (name == "lm_head.weight") return {{name}};
  const LayerName place = split_layer(name);
  if (std::string rest = place.rest; strip_prefix(rest, "ffn.experts.")) {
    return expert_sources(config, place.layer, rest);
  }
  for (const Spelling& spelling : kSpellings) {
    std::string rest = place.rest;
    if (strip_prefix(rest, spelling.name))
      return {{fmt::format("model.layers.{}.{}{}", place.layer, spelling.file, rest)}};
  }
  return {{"model." + name}};
}

bool ignorable(const ModelConfig& config, const std::string& tensor) {
  return config.tie_word_embeddings && tensor == "lm_head.weight";
}

}  // namespace

Family lfm2_family() { return {"lfm2", read_lfm2, sources, ignorable}; }
Family lfm2_moe_family() { return {"lfm2_moe", read_lfm2_moe, sources, ignorable}; }

}  // namespace carousel::model
